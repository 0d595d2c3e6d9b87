"""Killed at any moment and started again with the same command, a run ends bit-equal to one that was left alone."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.configdict import from_config
from experiments.grpo.settings import GRPOExperiment
from experiments.grpo.setup import build
from lqlm.io.checkpoint import Checkpoints
from lqlm.io.metrics import read_jsonl
from tests.experiments.conftest import CONFIG, process, run_process
from tests.experiments.tiny_config import get_config

KILLER = "--config.rewards.digits.function=tests.experiments.killer.digits"
# What a shell starts in the background ignores Ctrl-C, and so would its child: this puts the default back. (A hook
# between fork and exec would do it too, but JAX warns of every fork of a process with threads.)
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
TIMING = ("wall", "step_time", "seconds/", "memory/", "tokens_per_second/", "compilations")
MOMENTS = (
    "rename:checkpoints/0",  # at the end of the first save
    "reward:3",  # in the first step
    "rename:checkpoints/2",  # at the end of a save
    "within a save",
    "line:3",  # in the step after it, while its metrics are written
    "rename:checkpoints/4",
    "rename:adapter",  # all steps are done, the results are not written
    "rename:summary.json",
)


def values(path, name):
    """Rows without what the clock says."""
    rows = read_jsonl(path / name)
    return [{key: value for key, value in row.items() if not key.startswith(TIMING)} for row in rows]


def kill_within_save(workdir, command):
    """Kill as soon as the temporary folder of a save is seen."""
    with subprocess.Popen(**process(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not list(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")):
            time.sleep(0.0005)
        child.kill()
    return child.returncode


def final_state(model, path):
    settings = from_config(GRPOExperiment, get_config(str(model)))
    checkpoints = Checkpoints(path / "checkpoints", 2)
    found = checkpoints.restore(build(settings).state)
    checkpoints.close()
    return found


@pytest.mark.slow
def test_a_run_killed_at_many_moments_ends_as_if_it_had_not_been(model, tmp_path):
    arguments = [f"--config={CONFIG}:{model}", KILLER]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert run_process(*arguments, f"--config.workdir={alone}").status == 0
    command = [*arguments, f"--config.workdir={killed}"]
    for moment in MOMENTS:
        if moment == "within a save":
            (leftover,) = (killed / "checkpoints").glob("*.orbax-checkpoint-tmp*")  # of the kill before
            leftover.rename(tmp_path / "away")
            status = kill_within_save(killed, command)
        else:
            status = run_process(*command, LQLM_TEST_KILL=moment).status
        assert status == -signal.SIGKILL, moment
        assert not (killed / "summary.json").exists()
    ended = run_process(*command)
    assert (ended.status, ended.said()) == (0, []), ended

    assert values(killed, "metrics.jsonl") == values(alone, "metrics.jsonl")
    assert [row["step"] for row in values(alone, "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert values(killed, "samples.jsonl") == values(alone, "samples.jsonl")
    weights = "adapter/adapter_model.safetensors"
    assert (killed / weights).read_bytes() == (alone / weights).read_bytes()
    (step, state, extra), (other_step, other, other_extra) = (final_state(model, path) for path in (killed, alone))
    assert step == other_step == 4 and extra["history"] == other_extra["history"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(other))
    summaries = [json.loads((path / "summary.json").read_text()) for path in (killed, alone)]
    assert summaries[0]["before"] == summaries[1]["before"] and summaries[0]["after"] == summaries[1]["after"]
    assert summaries[0]["compilations"] > summaries[1]["compilations"]  # those of all its processes
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in alone.iterdir())  # nothing left behind


@pytest.mark.slow
def test_control_c_ends_in_one_line(model, tmp_path):
    endless = ["--config.run.steps=1000000", "--config.run.checkpoint_every=1000000", "--config.run.eval_every=0"]
    command = process(f"--config={CONFIG}:{model}", f"--config.workdir={tmp_path}", *endless)
    command["args"] = [sys.executable, "-c", HEARING, *command["args"]]
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while child.poll() is None and len(read_jsonl(tmp_path / "metrics.jsonl")) < 4:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        try:
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()  # an endless run must not outlive a test that fails
    assert child.returncode == 130 and "Traceback" not in out + err
    assert err.strip().splitlines()[-1] == "interrupted; the same command goes on from the last checkpoint"
