"""Chips as the reward of the commands: GRPO runs on hands that bots played, PPO builds, and mistakes are one line."""

import dataclasses
import pathlib

import numpy as np
import pytest

from configs import poker_grpo
from experiments.configdict import as_config, from_config
from experiments.grpo import setup as grpo
from experiments.grpo.settings import GRPOExperiment
from experiments.ppo import setup as ppo
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.metrics import read_jsonl
from lqlm.rewards.poker import chips
from lqlm.tasks.poker import PokerConfig, PokerItem
from tests.experiments.conftest import run_all
from tests.experiments.poker_hands import select_hands
from tests.experiments.tiny_model import changed, save_model, tiny
from tests.experiments.tiny_ppo import tiny_ppo

REWARDS = {
    name: RewardSettings(f"lqlm.rewards.poker.{name}", weight)
    for name, weight in (("chips", 1.0), ("legal", 0.1), ("agrees", 0.0))
}


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """The sections that make a run one on chips, with a model whose context holds a prompt in single characters."""
    folder = tmp_path_factory.mktemp("poker")
    selected = select_hands(folder, sessions=6, hands=3, seats=2)
    model = save_model(folder / "model", max_position_embeddings=320, hidden_size=32, intermediate_size=48)
    return {
        "model": ModelSettings(source=str(model), quantize=False),
        "task": PokerConfig(
            source=str(selected / "train.jsonl"),
            heldout_source=str(selected / "valid.jsonl"),
            limit=8,
            heldout=3,
            playouts=2,
        ),
        "rewards": REWARDS,
        "adapter": LoraConfig(rank=2, alpha=4.0, targets=("q_proj",)),
        "sampling": SamplingConfig(max_new_tokens=3),
    }


def test_a_run_on_chips(sections, tmp_path):
    run_settings = {"steps": 2, "updates": 1, "micro_batches": 1, "remat": "none", "eval_batch": 3}
    settings = dataclasses.replace(tiny(pathlib.Path(), tmp_path / "run", **run_settings), **sections)
    settings = changed(settings, "grpo", beta=0.0)  # no reference: less is compiled
    run, state = run_all(from_config(GRPOExperiment, as_config(settings)))
    assert int(state.step) == 2 and all(isinstance(item, PokerItem) for item in run.setup.task.train)
    rows = [row for row in read_jsonl(run.workdir.path / "metrics.jsonl") if "reward" in row]
    for row in rows:
        means = {name: row[f"rewards/{name}/mean"] for name in REWARDS}
        assert row["reward_errors"] == 0 and np.isfinite([*means.values(), row["loss"]]).all()
        # Random characters are no answers: each counts as the check or the fold, at the price of half a reward.
        assert means["legal"] == means["agrees"] == 0 and means["chips"] < 0
    found = run.history["eval"]["2"]
    assert set(found) == {f"eval/{name}" for name in ("accuracy", "accuracy_strict", "chips", "legal")}
    heldout = run.setup.task.heldout
    idle = np.mean([10 * (chips("", item) + 0.5) for item in heldout])
    assert found["eval/chips"] == pytest.approx(idle) and found["eval/legal"] == found["eval/accuracy"] == 0


def test_ppo_takes_the_task(sections, tmp_path):
    settings = dataclasses.replace(tiny_ppo(pathlib.Path(), tmp_path / "run"), **sections)
    setup = ppo.build(settings)
    assert setup.task.name == "poker" and [reward.name for reward in setup.rewards] == list(REWARDS)


def test_the_config_reads_the_folder_of_a_pipeline(sections):
    made = from_config(GRPOExperiment, poker_grpo.get_config("runs/mine"))
    assert made.model == ModelSettings(source="runs/mine/sft/model", quantize=False)
    assert (made.task.source, made.task.heldout_source) == tuple(
        f"runs/mine/selected/{part}.jsonl" for part in ("train", "valid")
    )
    with pytest.raises(UserError, match=r"'runs/mine/selected/valid.jsonl' cannot be read .*select"):
        grpo.build(made)
