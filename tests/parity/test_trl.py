"""TRL itself, against the stored goldens and against lqlm."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("trl")

from lqlm.algorithms.advantages import (
    batch_advantages,
    centered_advantages,
    decoupled_advantages,
    group_advantages,
    leave_one_out_advantages,
)
from lqlm.algorithms.grpo import GRPOConfig, grpo_loss
from lqlm.algorithms.policy import penalized_rewards
from tests.algorithms.trl_family import loss_gradients_and_metrics

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def load_maker():
    spec = importlib.util.spec_from_file_location("make_trl", GOLDENS / "make_trl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def test_goldens_are_reproduced():
    stored, made = np.load(GOLDENS / "trl.npz"), maker.make()
    assert set(made) == set(stored.files) - {"versions", "max_length"}
    for name, want in made.items():
        np.testing.assert_allclose(stored[name], want, rtol=1e-5, atol=1e-7, err_msg=name)


def fresh_inputs(seed):
    """Other masks and advantages than the stored ones, and other log-probabilities."""
    rng = np.random.default_rng(seed + 1)
    inputs = maker.make_inputs()
    inputs["mask"] = np.arange(maker.LENGTH)[None] < rng.integers(1, maker.LENGTH + 1, maker.ROWS)[:, None]
    inputs["advantages"] = rng.normal(size=maker.ROWS).astype(np.float32)
    inputs["old_logp"] = inputs["logp"] + rng.normal(0, 0.2, inputs["logp"].shape).astype(np.float32)
    return inputs


@pytest.mark.parametrize("seed", range(3))
def test_fresh_rollouts_equal_trl(seed):
    inputs = fresh_inputs(seed)
    arrays = [jnp.asarray(inputs[name]) for name in ("logp", "old_logp", "ref_logp", "advantages", "mask")]
    reductions = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}
    for loss, reduction in reductions.items():
        cfg = GRPOConfig(0.1, 0.28, 0.04, reduction, maker.MAX_LENGTH, "k3_corrected")
        want = maker.trl_loss(inputs, loss, (0.1, 0.28), (0.04, True))
        (got, _), grad = jax.value_and_grad(grpo_loss, has_aux=True)(*arrays, cfg)
        np.testing.assert_allclose(got, want["loss"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad, want["grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_family_equals_trl_on_fresh_rollouts(seed):
    inputs = fresh_inputs(seed)
    wanted = {name: maker.trl_loss(inputs, *arguments) for name, arguments in maker.FAMILY.items()}
    wanted["rloo"] = maker.rloo_loss(inputs, maker.RLOO_EPSILONS)
    for case, want in wanted.items():
        got = loss_gradients_and_metrics(inputs, case)
        for name, x in want.items():
            np.testing.assert_allclose(got[name], x, rtol=1e-5, atol=1e-6, err_msg=f"{case}: {name}")


def test_fresh_rloo_advantages_equal_trl():
    inputs = fresh_inputs(4)
    inputs["rewards"] = np.random.default_rng(6).normal(size=(2, 4)).astype(np.float32)
    arrays = [jnp.asarray(inputs[name]).reshape(2, 4, -1) for name in ("old_logp", "ref_logp", "mask")]
    for beta in (0.0, 0.3):
        got = leave_one_out_advantages(penalized_rewards(jnp.asarray(inputs["rewards"]), *arrays, beta))
        np.testing.assert_allclose(got, maker.rloo_advantages(inputs, beta, False), rtol=1e-5, atol=1e-5)


def test_fresh_advantages_equal_trl():
    rewards = np.random.default_rng(5).integers(0, 3, (6, 8)).astype(np.float32)
    parts = np.stack([rewards, rewards[::-1] * 0.3])
    want = maker.trl_advantages(parts, "group", (0.7, -1.5), "normalize_then_sum")
    got = decoupled_advantages(jnp.asarray(parts), jnp.array([0.7, -1.5]))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for ours, scale in ((group_advantages, "group"), (centered_advantages, "none"), (batch_advantages, "batch")):
        want = maker.trl_advantages(rewards, scale)
        np.testing.assert_allclose(ours(jnp.asarray(rewards)), want, rtol=1e-5, atol=1e-6)
