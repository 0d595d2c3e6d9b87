"""Demonstrations as members of their groups (LUFFY): worked by hand, in the objective, and in micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.algorithms.advantages import centered_advantages, group_advantages
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.off_policy import shaped_loss, shaped_probability, with_demonstration
from lqlm.algorithms.step import init_state, make_update


def test_the_shaping_by_hand():
    p = jnp.array([0.1, 0.4, 0.9, 1.0])
    np.testing.assert_allclose(shaped_probability(jnp.log(p)), [0.5, 0.8, 0.9, 1 / 1.1], rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: shaped_probability(x, gamma=0.2)))(jnp.log(p))
    np.testing.assert_allclose(slope, 0.2 * p / (p + 0.2) ** 2, rtol=1e-5)
    unlikely = jax.grad(shaped_probability)(jnp.float32(np.log(1e-3)))
    assert float(unlikely) > 9 * 1e-3  # nine times the gradient of the plain ratio, which is p
    assert np.isfinite(jax.grad(shaped_probability)(jnp.float32(-1e4)))


def test_the_loss_does_not_look_where_there_is_no_weight():
    logp = jnp.array([jnp.log(0.3), jnp.nan, jnp.log(0.1)])
    weights = jnp.array([2.0, 0.0, -1.0])
    value, gradient = jax.value_and_grad(shaped_loss)(logp, weights)
    np.testing.assert_allclose(value, -(2 * 0.75 - 0.5), rtol=1e-6)
    np.testing.assert_allclose(gradient, [-2 * 0.1 * 0.3 / 0.16, 0, 0.1 * 0.1 / 0.04], rtol=1e-5)


def test_a_group_that_is_all_poor_learns_from_its_demonstration():
    """G = 3 samples worth 0 and a demonstration worth 1: mean 1/4, Bessel's deviation 1/2."""
    found = group_advantages(with_demonstration(jnp.zeros((1, 3), jnp.int32), 1.0), eps=0.0)
    np.testing.assert_allclose(found, [[-0.5, -0.5, -0.5, 1.5]], rtol=1e-6)
    solved = centered_advantages(with_demonstration(jnp.ones((1, 3)), 1.0))
    np.testing.assert_array_equal(solved, jnp.zeros((1, 4)))  # one that is no better teaches nothing


def case(seed=0):
    """Four groups of 2 samples and a demonstration of up to 5 tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, (4, 3))
    mask = jnp.asarray(np.arange(5) < lengths[..., None])
    logp = jnp.asarray(-rng.gamma(2.0, 0.7, mask.shape), jnp.float32)
    advantages = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    prompts = jnp.arange(4, dtype=jnp.int32)[:, None].repeat(2, 1)
    batch = GRPOBatch(
        prompts, prompts > -1, mask.astype(jnp.int32), mask, advantages[:, :2], None, None, advantages[:, 2]
    )
    return batch, logp, np.asarray(advantages), np.asarray(mask)


def updated(cfg, parts, batch, logp):
    """The gradient with respect to the log-probabilities, and the metrics."""
    objective = grpo_objective(
        lambda adapters, base, part, key: (
            adapters["logp"][part.prompts_BP[:, 0]],
            jnp.zeros_like(part.completion_mask_BGC, jnp.float32),
        ),
        cfg,
        micro_batches=parts,
        shaping=0.1,
    )
    optimizer = optax.sgd(1.0)
    state = init_state({"logp": jnp.array(logp)}, optimizer)
    new, metrics = jax.jit(make_update(objective, optimizer, micro_batches=parts))(state, None, batch, None)
    return np.asarray(logp - new.adapters["logp"]), metrics


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
def test_samples_and_demonstrations_share_one_mean(reduction, parts):
    """LUFFY's equation: ``1/Z [sum f(p) A + sum r A]``, Z over all tokens of both; or another reduction's weights."""
    batch, logp, advantages, mask = case()
    cfg = GRPOConfig(beta=0.0, reduction=reduction, max_length=7 if reduction == "constant" else None)
    gradient, metrics = updated(cfg, parts, batch, logp)
    lengths = mask.sum(-1, keepdims=True)
    weight = {"token": 1 / mask.sum(), "sequence": 1 / (12 * lengths), "constant": 1 / (12 * 7)}[reduction] * mask
    p = np.exp(np.asarray(logp, np.float64))
    slope = np.ones_like(p)  # of the ratio, which is 1
    slope[:, 2] = (0.1 * p / (p + 0.1) ** 2)[:, 2]
    np.testing.assert_allclose(gradient, -weight * advantages[..., None] * slope, rtol=1e-4, atol=1e-6)
    shaped = -np.sum((weight * advantages[..., None] * p / (p + 0.1))[:, 2])
    np.testing.assert_allclose(metrics["off_policy_loss"], shaped, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], metrics["policy_loss"] + shaped, rtol=1e-5, atol=1e-6)
