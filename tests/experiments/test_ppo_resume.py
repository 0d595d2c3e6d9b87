"""Killed at any moment and started again with the same command, PPO ends bit-equal to a run that was left alone."""

import json
import signal

import jax
import numpy as np
import pytest

from experiments.configdict import from_config
from experiments.ppo.settings import PPOExperiment
from experiments.ppo.setup import build
from lqlm.io.checkpoint import Checkpoints
from tests.experiments.conftest import run_process
from tests.experiments.test_resume import KILLER, values
from tests.experiments.tiny_ppo import get_config

MOMENTS = ("reward:5", "rename:checkpoints/2", "line:3", "rename:value", "rename:summary.json")
WEIGHTS = ("adapter/adapter_model.safetensors", "value/adapter_model.safetensors")


def final_state(model, path):
    checkpoints = Checkpoints(path / "checkpoints", 2)
    found = checkpoints.restore(build(from_config(PPOExperiment, get_config(f"ppo:{model}"))).state)
    checkpoints.close()
    return found


@pytest.mark.slow
def test_a_run_killed_at_many_moments_ends_as_if_it_had_not_been(model, tmp_path):
    """Policy, value function, moments of both, the adaptive coefficient, the order of the minibatches."""
    arguments = [f"--config=tests/experiments/tiny_ppo.py:ppo:{model}", KILLER]
    alone, killed = tmp_path / "alone", tmp_path / "killed"

    def call(folder, **more):
        return run_process(*arguments, f"--config.workdir={folder}", module="experiments.ppo", **more)

    ended = call(alone)
    assert ended.status == 0, ended
    for moment in MOMENTS:
        ended = call(killed, LQLM_TEST_KILL=moment)
        assert ended.status == -signal.SIGKILL and not (killed / "summary.json").exists(), (moment, ended)
    ended = call(killed)
    assert (ended.status, ended.said()) == (0, []), ended

    rows = values(alone, "metrics.jsonl")
    assert values(killed, "metrics.jsonl") == rows and [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert len({row["kl_coef"] for row in rows[1:]}) > 2  # what a resumed run would have forgotten
    assert values(killed, "samples.jsonl") == values(alone, "samples.jsonl")
    for weights in WEIGHTS:
        assert (killed / weights).read_bytes() == (alone / weights).read_bytes()
    (step, state, extra), (other_step, other, other_extra) = (final_state(model, path) for path in (killed, alone))
    assert step == other_step == 4 and extra["history"] == other_extra["history"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(other))
    summaries = [json.loads((path / "summary.json").read_text()) for path in (killed, alone)]
    assert summaries[0]["before"] == summaries[1]["before"] and summaries[0]["after"] == summaries[1]["after"]
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in alone.iterdir())  # nothing left behind
