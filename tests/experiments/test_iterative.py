"""Iterative GRPO on the tiny model: by turns a reward model on the policy's samples, and the policy against it."""

import dataclasses
import json

import pytest

from experiments.configdict import as_config
from experiments.grpo.settings import RunSettings
from experiments.iterative import __main__ as iterative
from experiments.iterative.iterations import replayed
from experiments.iterative.settings import IterativeExperiment, RenewedJudge
from experiments.pairs.settings import PairRunSettings
from experiments.r1.settings import RLStage
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.reward_model.setup import build
from experiments.rollouts.drawing import DrawSettings
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.datasets import as_lines
from lqlm.io.disk import write_atomic
from lqlm.io.metrics import read_jsonl
from lqlm.io.reward_model import is_reward_model, load_reward_model
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.pairs import PairConfig
from tests.experiments.conftest import run_all
from tests.experiments.tiny_pairs import save_pairs, tiny_reward_model

DIGITS = {"digits": RewardSettings("tests.experiments.rewards.digits")}


def settings(model, workdir, **changes):
    sampling, often = SamplingConfig(max_new_tokens=6), {"eval_every": 0, "eval_batch": 2, "checkpoint_every": 1}
    found = IterativeExperiment(
        workdir=str(workdir),
        model=ModelSettings(source=str(model)),
        adapter=LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "down_proj")),
        task=ArithmeticConfig(operands=(0, 9), operators="+", train=12, heldout=3, template="{expression}="),
        draw=DrawSettings(rewards=DIGITS, sampling=sampling, batch=6, samples=4, threshold=0.15),
        rl=RLStage(
            rewards={},
            sampling=sampling,
            grpo=GRPOConfig(beta=0.1),
            run=RunSettings(steps=2, prompts=2, group=2, samples=1, **often),
        ),
        judge=RenewedJudge(
            heldout=4,
            replay=0.25,
            text=PairConfig(max_prompt=32, max_completion=8),
            run=PairRunSettings(steps=2, pairs=2, **often),
        ),
    )
    return dataclasses.replace(found, **changes)


@pytest.mark.slow
def test_policy_and_reward_model_go_on_from_the_ones_before(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.command.use_compilation_cache", lambda: None)
    iterative.main(as_config(settings(model, tmp_path)))
    first, second = (tmp_path / f"iteration_{n}" for n in range(2))
    configs = {part: json.loads((second / part / "config.json").read_text()) for part in ("policy", "reward_model")}
    assert configs["policy"]["start"] == str(first / "policy/adapter")
    assert configs["reward_model"]["start"] == str(first / "reward_model/adapter")
    assert configs["policy"]["reward_model"]["path"] == str(second / "reward_model/adapter")
    seeds = [json.loads(path.read_text())["seed"] for path in tmp_path.glob("iteration_*/*/config.json")]
    assert len(seeds) == len(set(seeds)) == 4
    new, learned = (len(read_jsonl(second / name)) for name in ("new.jsonl", "pairs.jsonl"))
    assert learned - new == min(round(new / 3), len(read_jsonl(first / "new.jsonl"))) > 0  # a quarter of all is old
    assert len(read_jsonl(first / "pairs.jsonl")) == len(read_jsonl(first / "new.jsonl"))
    learned_on, held = (
        {row["prompt"][-1]["content"] for where in (first, second) for row in read_jsonl(where / name)}
        for name in ("pairs.jsonl", "heldout.jsonl")
    )
    assert held and not held & learned_on  # in no iteration
    assert configs["reward_model"]["data"]["heldout_source"] == str(second / "heldout.jsonl")
    kl = [row["kl"] for row in read_jsonl(second / "policy/metrics.jsonl")[1:]]
    assert abs(kl[0]) < 1e-6  # the reference is the policy that the iteration begins with
    row = read_jsonl(second / "policy/metrics.jsonl")[1]
    assert row["reward"] == pytest.approx(row["rewards/reward_model/mean"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores) == 2 and scores[0]["accuracy/after"] == scores[1]["accuracy/before"]
    assert {"reward_model/accuracy/before", "reward_model/accuracy/after"} <= scores[1].keys()
    capsys.readouterr()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    iterative.main(as_config(settings(model, tmp_path)))  # all of it is over: nothing is trained again
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_a_share_of_old_pairs_is_replayed(model, tmp_path):
    """Of all that is learned from the share is old; the same ones for a command that goes on."""
    found = settings(model, tmp_path)
    for number in range(2):
        rows = [{"prompt": f"{number}/{i}", "chosen": "a", "rejected": "b"} for i in range(30)]
        write_atomic(tmp_path / f"iteration_{number}/new.jsonl", as_lines(rows))
    old = replayed(found, 2, 60)
    assert len(old) == 20 and old == replayed(found, 2, 60)
    assert {row["prompt"][0] for row in old} == {"0", "1"} and len({row["prompt"] for row in old}) == 20
    assert replayed(found, 0, 60) == [] and len(replayed(found, 1, 900)) == 30  # no more than there are
    none = dataclasses.replace(found, judge=dataclasses.replace(found.judge, replay=0.0))
    assert replayed(none, 2, 60) == []


def test_a_reward_model_goes_on_with_its_head(model, tmp_path):
    """Before the first step it scores as the one it begins with; a policy's adapter gets a new head."""
    pairs = save_pairs(tmp_path / "pairs.jsonl")
    run, _ = run_all(tiny_reward_model(model, pairs, tmp_path / "one", steps=2), REWARD_MODEL)
    assert is_reward_model(run.workdir.adapter) and not is_reward_model(tmp_path)
    again = dataclasses.replace(
        tiny_reward_model(model, pairs, tmp_path / "two", steps=1), start=str(run.workdir.adapter), seed=7
    )
    tree, _ = load_reward_model(run.workdir.adapter, run.setup.model.config)
    begun = build(again).state.adapters
    assert (begun["score"]["kernel"] == tree["score"]["kernel"]).all()
    assert (begun["layers"]["q_proj"].a == tree["layers"]["q_proj"].a).all()


def test_bad_input_is_one_line(model, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.command.use_compilation_cache", lambda: None)
    with pytest.raises(UserError, match=r"judge\.replay is 1\.0"):
        RenewedJudge(replay=1.0)
    with pytest.raises(UserError, match="iterations is 0"):
        settings(model, tmp_path, iterations=0)
    with pytest.raises(UserError, match="which changes the base"):
        settings(model, tmp_path, adapter=LoraConfig(init="pissa"))
    found = settings(model, tmp_path)
    never = dataclasses.replace(found, draw=dataclasses.replace(found.draw, threshold=9.0))
    with pytest.raises(UserError, match="iteration 0: 0 problems with right and wrong samples, 0 of them held out"):
        iterative.main(as_config(never))
