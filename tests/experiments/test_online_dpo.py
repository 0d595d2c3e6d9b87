"""Online DPO on the tiny model: what it writes, which pairs it learns from, resuming, and what is refused."""

import dataclasses
import fnmatch
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.online_dpo import __main__ as online
from experiments.online_dpo.algorithm import ONLINE_DPO, PANELS
from experiments.online_dpo.setup import build
from experiments.online_dpo.step import make_pairs
from experiments.rollouts.sample import Rollout
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.pairs import real_pairs
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from tests.experiments.conftest import run_all, run_killed
from tests.experiments.test_resume import values
from tests.experiments.tiny_online import tiny_online

EXPECTED = {
    *(
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/digits/mean",
        "completions/mean_length",
        "pairs",
        "loss",
    ),
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "entropy"),
    *("rollouts_total", "grad_norm", "loss", "compilations", "seconds/rollout", "seconds/logprob", "seconds/update"),
}


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    return run_all(tiny_online(model, tmp_path_factory.mktemp("online") / "work"), ONLINE_DPO)


def rows(run):
    return read_jsonl(run.workdir.path / "metrics.jsonl")


def test_the_metrics_are_there_and_mean_what_they_say(done):
    run, state = done
    steps = rows(run)[1:]
    assert [row["step"] for row in steps] == [1, 2, 3, 4] and int(state.step) == 4
    for row in steps:
        assert row.keys() >= EXPECTED, EXPECTED - row.keys()
        assert all(math.isfinite(row[name]) for name in EXPECTED)
        assert row["rollouts_total"] == row["step"] * 4 * 4 and row["pairs"] <= 4 * 2
        assert row["pairs"] >= 4 * (1 - row["frac_reward_zero_std"])  # of each group that differs at least one
        assert row["rewards/margins"] == pytest.approx(row["rewards/chosen"] - row["rewards/rejected"], abs=1e-5)
    begun, ended = (abs(steps[at]["rewards/chosen"]) for at in (0, -1))
    assert begun < 1e-5 and ended > 1e-3  # the policy begins as its reference
    assert steps[0]["compilations"] > 0 and [row["compilations"] for row in steps[1:]] == [0, 0, 0]
    summary = json.loads(run.workdir.summary.read_text())
    assert summary["before"].keys() == summary["after"].keys() >= {"eval/accuracy"}


def test_the_curves_find_their_metrics(done):
    names = {name for row in rows(done[0]) for name in row}
    for panel in PANELS:
        known = set(panel.names) - {"eval/reward"}  # which is of problems without an answer
        assert all(fnmatch.filter(names, pattern) for pattern in known), panel


def test_the_adapter_is_the_final_one(done):
    run, state = done
    adapters, lora = load_peft(run.workdir.adapter, run.setup.model.config)
    assert lora.rank == 4
    jax.tree.map(np.testing.assert_array_equal, adapters, jax.device_get(state.adapters))


def test_a_pair_is_a_better_and_a_worse_sample_of_one_prompt(done):
    """Rewards that are the first token: what is chosen must be the larger one."""
    run, _ = done
    tokens = jnp.arange(4 * 4 * 6).reshape(4, 4, 6) % 50
    completions = Completions(tokens, jnp.zeros(tokens.shape), jnp.ones(tokens.shape, bool), jnp.int32(6))
    prompts = run.setup.prompts.batch(run.setup.task.train[:4])
    rewards = np.asarray(tokens[..., 0], np.float32)
    rewards[1] = 3.0
    batch = make_pairs(run, Rollout(*prompts, completions), rewards)
    first = np.asarray(batch.completions_BGC)[:, :, 0]
    real = np.asarray(real_pairs(batch.completion_mask_BGC))
    np.testing.assert_array_equal(real, [True, True, False, False, True, True, True, True])
    assert (first[real, 0] > first[real, 1]).all()
    np.testing.assert_array_equal(batch.prompts_BP, np.repeat(prompts[0], 2, axis=0))
    reference = run.setup.functions.reference(run.setup.model.base, batch)
    np.testing.assert_array_equal(batch.ref_logp_BGC, reference)


def test_groups_of_equal_rewards_change_nothing(done):
    """A step without a pair has a loss and a gradient of zero, and nothing in it is NaN."""
    run, _ = done
    setup = build(run.setup.settings)
    tokens = jnp.ones((4, 4, 6), jnp.int32)
    completions = Completions(tokens, jnp.zeros(tokens.shape), jnp.ones(tokens.shape, bool), jnp.int32(6))
    rollout = Rollout(*setup.prompts.batch(setup.task.train[:4]), completions)
    batch = make_pairs(run, rollout, np.ones((4, 4), np.float32))
    _, metrics = setup.functions.update(setup.state, setup.model.base, batch, jax.random.key(0))
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == float(metrics["pairs"]) == 0
    assert all(math.isfinite(float(value)) for value in metrics.values())


def test_killed_between_steps_it_ends_as_if_it_had_not_been(done, model, tmp_path):
    alone, expected = done
    settings = tiny_online(model, tmp_path / "killed")
    run_killed(settings, ONLINE_DPO, 3)
    resumed, state = run_all(settings, ONLINE_DPO)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert values(resumed.workdir.path, name) == values(alone.workdir.path, name)


def test_it_learns_the_reward(model, tmp_path):
    run, _ = run_all(tiny_online(model, tmp_path, steps=30, eval_every=0, checkpoint_every=30), ONLINE_DPO)
    found = [row["rewards/digits/mean"] for row in rows(run)[1:]]
    assert np.mean(found[-6:]) > np.mean(found[:6]) + 0.3, found  # the greatest is 1, a random model gets 0.1


COMMAND_LINES = {
    "too many pairs": (["--config.run.pairs=3"], ["run.pairs is 3", "run.group 4", "6 or more"]),
    "no pairs": (["--config.run.pairs=0"], ["run.pairs is 0", "1 or more"]),
    "a loss of whole batches": (["--config.dpo.loss=aot"], ["dpo.loss 'aot'", "equal rewards", "'sigmoid'"]),
    "no such reward model": (["--config.reward_model.path=no/such"], ["no/such", "adapter_config.json"]),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_the_line_names_what_is_wrong(cli, model, tmp_path, name):
    arguments, words = COMMAND_LINES[name]
    config = f"tests/experiments/tiny_online.py:{model}"
    line = cli(f"--config.workdir={tmp_path / 'work'}", *arguments, config=config, module=online).line()
    for word in words:
        assert word in line


def test_a_reference_that_would_be_lost_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="the base without adapters"):
        dataclasses.replace(tiny_online(model, tmp_path), adapter=LoraConfig(init="pissa"))
