"""BNPO's advantages: equal to the paper's formula in scipy, its two special cases, and what cannot be fitted."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.advantages import beta_normalised_advantages, centered_advantages

RIGHT = hnp.arrays(np.float64, (6, 4), elements=st.sampled_from([0.0, 1.0]))


def by_the_paper(rewards):
    """Equations of arXiv:2506.02864, in float64."""
    rates = rewards.mean(-1)
    mean, variance = rates.mean(), rates.var(ddof=1)
    both = mean * (1 - mean) / variance - 1 if variance else 0.0
    alpha, beta = max(1 + both * mean / 3, 1.0), max(1 + both * (1 - mean) / 3, 1.0)
    with np.errstate(divide="ignore"):
        weights = np.minimum(1 / scipy.stats.beta.pdf(rates, alpha, beta), 1e6)
    return np.where(
        (rewards == rewards[:, :1]).all(-1, keepdims=True), 0.0, (rewards - rates[:, None]) * weights[:, None]
    )


@given(RIGHT)
def test_equal_to_the_formula(rewards):
    found = beta_normalised_advantages(jnp.asarray(rewards, jnp.float32))
    assert found.dtype == jnp.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found, by_the_paper(rewards), rtol=2e-4, atol=1e-6)


def test_rewards_of_another_range_are_scaled():
    rewards = np.random.default_rng(0).integers(0, 2, (5, 4)).astype(np.float32)
    found = beta_normalised_advantages(jnp.asarray(rewards))
    np.testing.assert_allclose(
        beta_normalised_advantages(jnp.asarray(4 * rewards - 1), low=-1, high=3), found, rtol=1e-5
    )
    assert np.ptp(found) > 0


def test_rates_that_are_spread_evenly_are_grpo_up_to_a_constant():
    """Of rates with a = b = 3 / 2, alpha = beta = 3 / 2, and the density is as the square root of p (1 - p)."""
    rates = np.array([0.25, 0.5, 0.75])
    wanted = 1 / 16  # v = m (1 - m) / (a + b + 1), at which a + b is 3
    assert np.isclose(rates.var(ddof=1), wanted)
    rewards = (np.arange(4) < 4 * rates[:, None]).astype(np.float32)
    found = np.asarray(beta_normalised_advantages(jnp.asarray(rewards)))
    scaled = (rewards - rates[:, None]) / np.sqrt(rates * (1 - rates))[:, None]
    ratio = found / scaled
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_without_anything_to_fit_it_is_a_baseline():
    for rewards in ([[1, 0, 0, 1]], [[1, 0, 0, 0], [0, 0, 1, 0]]):
        array = jnp.array(rewards)
        np.testing.assert_allclose(beta_normalised_advantages(array), centered_advantages(array), rtol=1e-6)


def test_it_is_one_function_under_jit_and_permutes_with_its_rows():
    rewards = jnp.asarray(np.random.default_rng(1).integers(0, 2, (8, 4)), jnp.float32)
    jitted = jax.jit(beta_normalised_advantages)
    found = jitted(rewards)
    np.testing.assert_allclose(found, beta_normalised_advantages(rewards), rtol=1e-5)
    np.testing.assert_allclose(jitted(rewards[::-1, ::-1]), found[::-1, ::-1], rtol=1e-5)
    assert jitted._cache_size() == 1
    assert np.isnan(jitted(rewards.at[0, 0].set(jnp.nan))).all()
