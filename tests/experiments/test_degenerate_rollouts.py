"""Whole steps on rollouts that say nothing: every completion is its end token alone, or all of a group are the same."""

import dataclasses

import numpy as np
import pytest

from experiments.a2c.algorithm import A2C
from experiments.grpo.algorithm import GRPO
from experiments.online_dpo.algorithm import ONLINE_DPO
from experiments.ppo.algorithm import PPO
from lqlm.io.metrics import read_jsonl
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed, tiny
from tests.experiments.tiny_online import tiny_online
from tests.experiments.tiny_ppo import tiny_a2c, tiny_ppo

RUNS = {
    "grpo": (
        GRPO,
        lambda model, path: changed(tiny(model, path, steps=2, eval_every=0), "grpo", beta=0.0),
        "grpo.drawn",
    ),
    "ppo": (PPO, lambda model, path: tiny_ppo(model, path, steps=2, eval_every=0), "ppo.step"),
    "a2c": (A2C, lambda model, path: tiny_a2c(model, path, steps=2, eval_every=0), "ppo.step"),
    "online_dpo": (ONLINE_DPO, lambda model, path: tiny_online(model, path, steps=2, eval_every=0), "online_dpo.step"),
}


def only_ends(tokens, mask, eos_id):
    """Every completion is the end token and nothing else."""
    first = np.arange(tokens.shape[-1]) == 0
    return np.where(first, eos_id, tokens * 0), np.broadcast_to(first, mask.shape)


def all_the_same(tokens, mask, eos_id):
    """Every completion of a group is its first one."""
    return tuple(np.broadcast_to(x[:, :1], x.shape) for x in (tokens, mask))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("make", [only_ends, all_the_same])
def test_a_step_that_can_teach_nothing_is_finite_and_teaches_nothing(name, make, model, tmp_path, monkeypatch):
    algorithm, settings, module = RUNS[name]
    module = __import__(f"experiments.{module}", fromlist=["rollout"])
    real = module.rollout

    def rollout(run, adapters, items, key):
        drawn = real(run, adapters, items, key)
        done = drawn.completions
        arrays = np.asarray(done.tokens_BGC), np.asarray(done.mask_BGC)
        tokens, mask = make(*arrays, run.setup.model.tokenizer.eos_ids[0])
        logp = np.where(mask, np.asarray(done.logp_BGC)[:, :1], 0.0).astype(np.float32)
        same = dataclasses.replace(done, tokens_BGC=tokens, mask_BGC=mask, logp_BGC=logp)
        return drawn._replace(completions=same)

    monkeypatch.setattr(module, "rollout", rollout)
    run, state = run_all(settings(model, tmp_path), algorithm)
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    assert len(rows) == 2 and int(state.skipped) == 0
    for row in rows:
        assert row["frac_reward_zero_std"] == 1.0 and row["reward_std"] == 0.0
        assert all(np.isfinite(row[metric]) for metric in ("loss", "grad_norm", "reward", "completions/mean_length"))
        if make is only_ends:
            assert row["completions/mean_length"] == 1.0 and row["reward"] == 0.0
    if name in ("grpo", "online_dpo"):  # an actor-critic compares with its value function, not within a group
        assert all(row["loss"] == 0.0 and row["grad_norm"] == 0.0 for row in rows)
