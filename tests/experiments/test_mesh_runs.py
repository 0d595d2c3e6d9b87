"""Whole runs on a mesh of two devices: PPO, online DPO and a reward model, against the same runs on one."""

import numpy as np
import pytest

from experiments.online_dpo.algorithm import ONLINE_DPO
from experiments.ppo.algorithm import PPO
from experiments.reward_model.algorithm import REWARD_MODEL
from lqlm.io.metrics import read_jsonl
from tests.experiments.conftest import run_all, run_process
from tests.experiments.tiny_online import tiny_online
from tests.experiments.tiny_pairs import save_pairs, tiny_reward_model
from tests.experiments.tiny_ppo import tiny_ppo

TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
STEPS = 2
FEW = ("--config.run.steps=2", "--config.run.eval_every=0", "--config.run.checkpoint_every=2")
SAME = {  # of the first step: what was drawn or read, and what was made of it
    "ppo": {"reward": 1e-6, "completions/mean_length": 1e-6, "loss": 1e-3, "value/mean": 1e-3, "entropy": 1e-3},
    "online_dpo": {"reward": 1e-6, "completions/mean_length": 1e-6, "loss": 1e-3, "pairs": 1e-6, "grad_norm": 1e-2},
    "reward_model": {"tokens": 1e-6, "loss": 1e-3, "mean_reward": 1e-3, "grad_norm": 1e-2},
}


def one_device(name, model, pairs, path):
    few = {"steps": STEPS, "eval_every": 0, "checkpoint_every": 2} | ({"micro_batches": 1} if name == "ppo" else {})
    make, algorithm = {
        "ppo": (tiny_ppo, PPO),
        "online_dpo": (tiny_online, ONLINE_DPO),
        "reward_model": (lambda model, path, **run: tiny_reward_model(model, pairs, path, **run), REWARD_MODEL),
    }[name]
    run_all(make(model, path, **few), algorithm)
    return read_jsonl(path / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), [("ppo", "data=2"), ("online_dpo", "data=2"), ("reward_model", "fsdp=2")])
def test_a_run_on_two_devices_is_that_of_one(name, mesh, model, tmp_path):
    pairs = save_pairs(tmp_path / "pairs.jsonl")
    config = {
        "ppo": f"tests/experiments/tiny_ppo.py:ppo:{model}",
        "online_dpo": f"tests/experiments/tiny_online.py:{model}",
        "reward_model": f"tests/experiments/tiny_pairs.py:reward_model,{model},{pairs}",
    }[name]
    arguments = (f"--config={config}", f"--config.workdir={tmp_path / 'two'}", f"--config.mesh={mesh}", *FEW)
    arguments += ("--config.run.micro_batches=1",) if name == "ppo" else ()  # a row for each device
    ended = run_process(*arguments, module=f"experiments.{name}", **TWO)
    assert (ended.status, ended.said()) == (0, []), ended
    two, one = read_jsonl(tmp_path / "two/metrics.jsonl"), one_device(name, model, pairs, tmp_path / "one")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [0, 1, 2]
    for key, tolerance in SAME[name].items():
        np.testing.assert_allclose(two[1][key], one[1][key], rtol=tolerance, atol=tolerance, err_msg=key)
    assert two[2]["compilations"] == 0 and np.isfinite(two[2]["loss"])
    files = ("adapter", "value") if name == "ppo" else ("adapter",)
    assert all((tmp_path / "two" / folder / "adapter_model.safetensors").is_file() for folder in files)
