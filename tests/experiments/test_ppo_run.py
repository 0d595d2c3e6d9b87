"""Whole runs of PPO and A2C on the tiny model: what they write, the one base that serves all, and resuming."""

import dataclasses
import fnmatch
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.a2c.algorithm import A2C
from experiments.ppo.algorithm import PANELS, PPO
from experiments.ppo.experience import Judged
from experiments.ppo.settings import PretrainingSettings
from experiments.ppo.setup import build
from experiments.ppo.step import plan
from experiments.rollouts.settings import RewardModelSettings
from experiments.sft.settings import DataSettings
from experiments.sft.step import batch_of
from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.algorithms.ppo import PPOConfig
from lqlm.io.load import load_model
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from lqlm.io.reward_model import load_reward_model, save_reward_model
from lqlm.models.heads import init_scalar_head
from lqlm.tasks.records import InstructionConfig
from lqlm.trees import tree_bytes
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed
from tests.experiments.tiny_ppo import TARGETS, tiny_a2c, tiny_ppo

TRL = {
    *("objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores"),
    *("policy/approxkl_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg"),
    *("val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "episode"),
}
HOUSE = {
    *("reward", "reward_std", "kl", "kl_coef", "entropy", "ratio", "grad_norm", "loss", "completions/mean_length"),
    *("value/explained_variance", "value/mean", "rewards/reward_model/mean", "ptx_loss", "compilations"),
}
TIMING = ("wall", "step_time", "seconds/", "tokens_per_second/", "compilations", "memory/")


@pytest.fixture(scope="module")
def judge(model, tmp_path_factory):
    """A reward model that was never trained: random adapters and a random head."""
    loaded, adapter = load_model(str(model), None, "float32"), LoraConfig(rank=2, alpha=4.0, targets=TARGETS)
    _, adapters = init_adapters(jax.random.key(5), loaded.base, adapter)
    adapters = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(6), x.shape), adapters)
    folder, score = tmp_path_factory.mktemp("judge") / "model", init_scalar_head(jax.random.key(7), 64)
    save_reward_model(folder, {**adapters, "score": score}, adapter, loaded.config, str(model))
    return folder


@pytest.fixture(scope="module")
def everything(model, judge, records):
    """Settings with all that a run may have: a value function from a reward model, that model, and other rows."""

    def make(workdir, **run):
        other = PretrainingSettings(2, DataSettings(str(records), heldout=8), InstructionConfig(max_length=24))
        settings = changed(tiny_ppo(model, workdir, surrogate="penalty", **run), "value", path=str(judge))
        learned, cfg = RewardModelSettings(str(judge), 0.5), PPOConfig(vf_coef=0.5, ptx_coef=0.3)
        settings = dataclasses.replace(settings, reward_model=learned, pretraining=other, ppo=cfg)
        return changed(settings, "penalty", target=1e-3)

    return make


@pytest.fixture(scope="module")
def done(everything, tmp_path_factory):
    return run_all(everything(tmp_path_factory.mktemp("ppo") / "work"), PPO)


def rows(run):
    return read_jsonl(run.workdir.path / "metrics.jsonl")


def test_the_metrics_are_there_and_mean_what_they_say(done):
    run, _ = done
    steps = rows(run)[1:]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row.keys() >= TRL | HOUSE, (TRL | HOUSE) - row.keys()
        assert all(math.isfinite(row[name]) for name in TRL | HOUSE)
        total = 2 * row["rewards/digits/mean"] + 0.5 * row["rewards/reward_model/mean"]
        assert row["reward"] == pytest.approx(total, rel=1e-5)
        scores = row["reward"] - 0.5 * row["completions/clipped_ratio"]  # the penalty of those without an end
        assert row["objective/scores"] == pytest.approx(scores, rel=1e-4)
        assert row["objective/non_score_reward"] == pytest.approx(-row["kl_coef"] * row["objective/kl"], rel=1e-5)
        together = row["objective/scores"] + row["objective/non_score_reward"]
        assert row["objective/rlhf_reward"] == pytest.approx(together, rel=1e-4)
        assert row["tokens"] == pytest.approx(8 * row["completions/mean_length"])
        assert row["objective/kl"] * 8 == pytest.approx(row["kl"] * row["tokens"], rel=1e-4, abs=1e-5)
        assert row["val/num_eos_tokens"] == pytest.approx(8 * (1 - row["completions/clipped_ratio"]))
        assert row["policy/approxkl_avg"] == row["approx_kl"] > 0 and row["val/ratio_var"] > 0
        assert row["loss"] == pytest.approx(row["policy_loss"] + 0.5 * row["value_loss"] + 0.3 * row["ptx_loss"])
        assert "clip_ratio/low_mean" not in row and row["old_kl"] > 0
    assert steps[0]["kl"] == 0 and all(row["kl"] != 0 for row in steps[1:])  # the policy begins as its reference
    for before, after in itertools.pairwise(steps):
        error = np.clip(before["objective/kl"] / 0.5 - 1, -0.2, 0.2)
        assert after["kl_coef"] == pytest.approx(before["kl_coef"] * (1 + 0.1 * error), rel=1e-5)
        assert after["penalty"] in (0.5 * before["penalty"], before["penalty"], 2 * before["penalty"])


def test_the_second_step_compiles_nothing(done):
    run, _ = done
    assert rows(run)[1]["compilations"] > 0 and [row["compilations"] for row in rows(run)[2:]] == [0, 0, 0]
    assert json.loads(run.workdir.summary.read_text())["compilations_after_first_step"] == 0


def test_the_curves_find_their_metrics(done):
    run, _ = done
    names = {name for row in rows(run) for name in row}
    for panel in PANELS:
        known = set(panel.names) - {"eval/reward"}  # which is of problems without an answer
        assert all(fnmatch.filter(names, pattern) for pattern in known), panel


def test_policy_and_value_function_are_written_side_by_side(done, judge):
    run, state = done
    cfg, final = run.setup.model.config, jax.device_get(state.adapters)
    adapters, lora = load_peft(run.workdir.adapter, cfg)
    value, value_lora = load_reward_model(run.workdir.path / "value", cfg)
    assert (lora.rank, value_lora.rank) == (4, 2)  # the value function's is that of the reward model
    jax.tree.map(np.testing.assert_array_equal, adapters, final["policy"])
    jax.tree.map(np.testing.assert_array_equal, value, final["value"])
    begun, _ = load_reward_model(judge, cfg)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), value, begun)
    assert float(value["score"]["bias"]) == 0.0 and not moved["score"].pop("bias")
    assert all(jax.tree.leaves(moved))


def test_every_epoch_sees_every_prompt_in_an_order_of_its_own(done):
    settings = done[0].setup.settings
    steps = [plan(settings, jax.random.fold_in(jax.random.key(0), step)) for step in range(2)]
    for updates in steps:
        assert len(updates) == settings.run.updates == 4
        for epoch in range(2):
            assert sorted(np.concatenate([updates[2 * epoch + n][0] for n in range(2)])) == [0, 1, 2, 3]
    updates = [update for updates in steps for update in updates]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for _, key in updates}) == 8
    assert len({tuple(np.concatenate([updates[n][0], updates[n + 1][0]])) for n in (0, 2, 4, 6)}) > 2


def judged_nothing(setup):
    """Completions of the pad token, with scores of 0."""
    prompts = map(jnp.asarray, setup.prompts.batch(setup.task.train[:4]))
    flags = jnp.ones((4, 2, 6), bool)
    return Judged(*prompts, jnp.zeros((4, 2, 6), jnp.int32), flags, jnp.zeros((4, 2)), flags[..., 0])


def test_a_run_that_goes_on_from_an_adapter_has_it_as_its_reference(done, everything, tmp_path):
    run, _ = done
    setup = build(dataclasses.replace(everything(tmp_path), start=str(run.workdir.adapter)))
    jax.tree.map(np.testing.assert_array_equal, setup.reference, setup.state.adapters["policy"])
    found = {}
    for name, reference in (("start", setup.reference), ("base", None)):
        arguments = setup.model.base, setup.state.adapters, reference, judged_nothing(setup), np.float32(0.1)
        found[name] = float(setup.functions.experience(*arguments)[1]["objective/kl"])
    assert found["start"] == 0 and abs(found["base"]) > 1e-3


def test_policy_reference_value_and_reward_share_one_base(done, everything, tmp_path):
    """Bytes of the compiled programs' arguments: one base, and of the rest each once."""
    setup = build(everything(tmp_path))
    assert setup.reference is None  # the base without adapters
    base, device = setup.model.base, jax.memory.Space.Device
    small = tree_bytes(setup.state.adapters), tree_bytes(setup.sampling.judge.adapters)
    assert tree_bytes(base) > 2 * sum(small)
    trees = (base, setup.state, setup.sampling.judge.adapters)
    buffers = {x.unsafe_buffer_pointer(): x.nbytes for x in jax.tree.leaves(trees)}
    assert sum(buffers.values()) == sum(map(tree_bytes, trees))  # nothing is there twice, nothing is shared unseen

    judged = judged_nothing(setup)
    of_experience = (base, setup.state.adapters, None, judged, np.float32(0.1))
    batch, _ = setup.functions.experience(*of_experience)
    batch = batch.replace(pretraining=batch_of(setup.pretraining.at(0, [])[0]), penalty=jnp.float32(1.0))
    of_update = (setup.state, base, (batch, np.arange(2, dtype=np.int32)), jax.random.key(0))
    of_judge = (base, setup.sampling.judge.adapters, *jax.tree.leaves(judged)[:4])
    programs = (setup.functions.experience, of_experience), (setup.functions.update, of_update)
    for program, arguments in (*programs, (setup.sampling.judge.score, of_judge)):
        memory = program.lower(*arguments).compile().memory_analysis()
        held = [x for x in jax.tree.leaves(arguments) if jax.typeof(x).memory_space == device]
        unused = tree_bytes(base) // 20  # what a program does not read, such as old log-probabilities, is left out
        assert tree_bytes(base) < memory.argument_size_in_bytes <= sum(x.nbytes for x in held) + unused
        assert sum(x.nbytes for x in held) < 2 * tree_bytes(base)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(done, everything, tmp_path):
    alone, expected = done
    run_all(everything(tmp_path, steps=2), PPO)
    resumed, state = run_all(everything(tmp_path), PPO)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    for one, two in zip(rows(resumed), rows(alone), strict=True):
        kept = [{k: v for k, v in row.items() if not k.startswith((*TIMING, "eval"))} for row in (one, two)]
        assert kept[0] == kept[1]
    for name in ("kl_coef", "penalty"):  # what a resumed run would have forgotten, were they not in its history
        assert resumed.history[name] == alone.history[name]
        assert len({row[name] for row in rows(alone)[1:]}) > 2


def test_clipped_ppo_learns_the_reward(model, tmp_path):
    run, _ = run_all(tiny_ppo(model, tmp_path, steps=40, eval_every=0, checkpoint_every=40), PPO)
    steps = rows(run)[1:]
    found = [row["rewards/digits/mean"] for row in steps]
    assert np.mean(found[-8:]) > np.mean(found[:8]) + 0.4, found  # the greatest is 1, a random model gets 0.1
    assert all(row["policy/clipfrac_avg"] == row["clip_ratio/region_mean"] for row in steps)
    assert max(row["policy/clipfrac_avg"] for row in steps) > 0 and max(row["val/clipfrac_avg"] for row in steps) > 0


def test_a2c_takes_one_update_on_each_rollout_and_learns(model, tmp_path):
    run, state = run_all(tiny_a2c(model, tmp_path, steps=40, eval_every=0, checkpoint_every=40), A2C)
    steps = rows(run)[1:]
    assert int(state.step) == 40 and [row["compilations"] for row in steps[1:]] == [0] * 39
    for row in steps:
        assert row["ratio"] == pytest.approx(1, abs=1e-4) and row["value_clip_ratio"] == 0
        assert "policy/clipfrac_avg" not in row and row["val/ratio_var"] == 0  # nothing is clipped
    found = [row["rewards/digits/mean"] for row in steps]
    assert np.mean(found[-8:]) > np.mean(found[:8]) + 0.3, found
    value, _ = load_reward_model(run.workdir.path / "value", run.setup.model.config)
    assert np.asarray(value["score"]["kernel"]).any()
