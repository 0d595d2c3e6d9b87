"""Killed at any moment and started again with the same command, SFT and pretraining end as if left alone."""

import json
import signal

import numpy as np
import pytest

from lqlm.io.safetensors import open_safetensors
from tests.experiments.conftest import run_process
from tests.experiments.test_resume import values

CONFIG = "tests/experiments/tiny_sft_config.py"
SFT_MOMENTS = ("rename:checkpoints/0", "line:2", "rename:checkpoints/4", "rename:adapter", "rename:summary.json")
SCRATCH_MOMENTS = ("rename:tokenizer", "rename:checkpoints/2", "line:3", "rename:model", "rename:curves.png")
RESULTS = {"adapter": "adapter_model.safetensors", "model": "model.safetensors"}


def killed_and_alone(arguments, moments, tmp_path):
    """The folders of two runs of the same command, one killed at each of the moments."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"

    def call(folder, **more):
        return run_process(*arguments, f"--config.workdir={folder}", module="experiments.sft", **more)

    ended = call(alone)
    assert ended.status == 0, ended
    for moment in moments:
        ended = call(killed, LQLM_TEST_KILL=moment)
        assert ended.status == -signal.SIGKILL and not (killed / "summary.json").exists(), (moment, ended)
    ended = call(killed)
    assert (ended.status, ended.said()) == (0, []), ended
    return killed, alone


def check(killed, alone, result):
    assert values(killed, "metrics.jsonl") == values(alone, "metrics.jsonl")
    assert values(killed, "samples.jsonl") == values(alone, "samples.jsonl")
    file = f"{result}/{RESULTS[result]}"
    assert (killed / file).read_bytes() == (alone / file).read_bytes()
    one, other = (json.loads((path / "summary.json").read_text()) for path in (killed, alone))
    for key in ("before", "after", "steps_done", "result_of_step"):
        assert one[key] == other[key]
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in alone.iterdir())  # nothing left behind


@pytest.mark.slow
def test_sft(model, records, tmp_path):
    killed, alone = killed_and_alone([f"--config={CONFIG}:{model},{records}"], SFT_MOMENTS, tmp_path)
    check(killed, alone, "adapter")
    assert [row["step"] for row in values(alone, "metrics.jsonl")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_pretraining_with_patience(records, tmp_path):
    killed, alone = killed_and_alone([f"--config={CONFIG}:scratch,{records}"], SCRATCH_MOMENTS, tmp_path)
    check(killed, alone, "model")
    weights = open_safetensors(alone / "model")
    assert all(np.isfinite(weights.get(name)).all() for name in weights.names)
    assert (killed / "tokenizer/tokenizer.json").read_bytes() == (alone / "tokenizer/tokenizer.json").read_bytes()
