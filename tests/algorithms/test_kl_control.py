"""Rewards of each token, and the controllers: worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms.kl_control import (
    KLConfig,
    less_without_end,
    next_coefficient,
    next_penalty,
    rewards_at_last_token,
    rewards_from_scores,
    score_without_end,
    states_mask,
    token_kl,
)
from lqlm.errors import UserError

MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)


def test_the_place_of_the_score():
    scores, kl = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.full(MASK.shape, 0.5)
    found = rewards_from_scores(scores, kl, 0.1, jnp.asarray(MASK))
    want = [[-0.05, -0.05, 1, 0], [-0.05, -0.05, -0.05, 1.95], [3, 0, 0, 0], [-0.05, 4, 0, 0]]
    np.testing.assert_allclose(found, want, rtol=1e-6)
    last = rewards_at_last_token(scores, kl, 0.1, jnp.asarray(MASK))
    want = [[-0.05, 0.95, 0, 0], [-0.05, -0.05, -0.05, 1.95], [3, 0, 0, 0], [3.95, 0, 0, 0]]
    np.testing.assert_allclose(last, want, rtol=1e-6)


def test_each_score_lies_within_the_states():
    found = np.asarray(states_mask(jnp.asarray(MASK)))
    assert found.sum(1).tolist() == [3, 4, 1, 2]
    placed = rewards_from_scores(jnp.ones(4), jnp.zeros(MASK.shape), 0.0, jnp.asarray(MASK))
    assert (np.asarray(placed)[found].sum(), np.asarray(placed).sum()) == (4, 4)
    np.testing.assert_array_equal(np.asarray(placed).argmax(1), np.minimum(MASK.sum(1), 3))  # at the end, not the start


def test_integer_scores_keep_their_halves():
    """A divergence of a half beside a score of 1 that came as an integer: 0.5 would be cut to 0."""
    for function in (rewards_from_scores, rewards_at_last_token):
        found = function(jnp.array([1, 1, 1, 1]), jnp.ones(MASK.shape), 0.5, jnp.ones(MASK.shape, bool))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found[0], [-0.5, -0.5, -0.5, 0.5])
    found = less_without_end(jnp.array([1, 1]), jnp.array([True, False]), 0.5)
    np.testing.assert_allclose(found, [1.0, 0.5])
    np.testing.assert_allclose(score_without_end(jnp.array([1, 1]), jnp.array([True, False])), [1.0, -1.0])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_divergence_looks_at_real_tokens_only(estimator):
    logp = np.where(MASK, -1.0, np.nan)
    found = token_kl(jnp.asarray(logp), jnp.where(jnp.asarray(MASK), -1.5, jnp.inf), jnp.asarray(MASK), estimator)
    want = {"k1": 0.5, "k3": np.exp(-0.5) - 1 + 0.5}[estimator]
    np.testing.assert_allclose(found, want * MASK, rtol=1e-5)


def test_the_adaptive_coefficient_by_hand():
    """arXiv:1909.08593: a divergence of twice the target is an error of 1, cut to 0.2: 2% more."""
    cfg = KLConfig(0.5, target=6.0)
    for kl, want in ((12.0, 0.51), (0.0, 0.49), (6.0, 0.5), (6.6, 0.505), (float("nan"), 0.5), (float("inf"), 0.5)):
        assert float(next_coefficient(jnp.float32(0.5), jnp.float32(kl), cfg)) == pytest.approx(want, rel=1e-6)
    assert float(next_coefficient(jnp.float32(0.5), jnp.float32(99.0), KLConfig(0.5))) == 0.5


@pytest.mark.parametrize("start", [0.05, 0.5, 20.0])
def test_the_adaptive_coefficient_brings_the_divergence_to_its_target(start):
    """A divergence that falls as the coefficient rises settles at the target, whatever it began with."""
    cfg, coefficient = KLConfig(start, target=2.0, gain=0.5), np.float32(start)
    step = jax.jit(lambda coefficient, kl: next_coefficient(coefficient, kl, cfg))
    for _ in range(80):
        coefficient = step(coefficient, 1.0 / coefficient)
    assert float(1.0 / coefficient) == pytest.approx(2.0, rel=0.05)


def test_the_penalty_of_the_unclipped_loss():
    found = [float(next_penalty(jnp.float32(1.0), jnp.float32(kl), 0.3)) for kl in (0.19, 0.21, 0.3, 0.44, 0.46)]
    assert found == [0.5, 1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "changes",
    [{"coefficient": -0.1}, {"estimator": "k4"}, {"target": 0.0}, {"target": 6.0, "coefficient": 0.0}, {"gain": 9.0}],
)
def test_what_has_no_meaning_is_refused(changes):
    with pytest.raises(UserError, match="KLConfig"):
        KLConfig(**changes)
