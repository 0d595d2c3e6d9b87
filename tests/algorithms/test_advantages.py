"""Advantages: by hand, and by the laws of a z-score."""

import chex
import hypothesis.extra.numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.advantages import centered_advantages, group_advantages, zero_variance_share

REWARDS = hnp.arrays(np.float32, (3, 4), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, 2.0]))
BOTH = pytest.mark.parametrize("advantages", [group_advantages, centered_advantages])


def test_four_of_eight_right_by_hand():
    got = group_advantages(jnp.array([[1, 0, 0, 1, 1, 0, 1, 0]]), eps=1e-8)
    std = np.sqrt(8 * 0.25 / 7)  # 0.5345: Bessel's; the plain std would give 1.0
    np.testing.assert_allclose(got[0], np.where([1, 0, 0, 1, 1, 0, 1, 0], 0.5, -0.5) / std, rtol=1e-6)
    np.testing.assert_allclose(np.abs(got), 0.94, atol=0.005)


@BOTH
def test_integer_rewards_are_not_rounded(advantages):
    got = advantages(jnp.array([[0, 1]]))
    assert got.dtype == jnp.float32
    chex.assert_trees_all_close(got, advantages(jnp.array([[0.0, 1.0]])))
    assert float(got[0, 1]) > 0.4


@BOTH
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_give_exactly_zero(advantages, value, size):
    np.testing.assert_array_equal(advantages(jnp.full((2, size), value)), np.zeros((2, size)))


def test_equal_rewards_give_zero_with_no_eps():
    np.testing.assert_array_equal(group_advantages(jnp.ones((1, 4)), eps=0.0), np.zeros((1, 4)))


@given(REWARDS, st.permutations(range(4)))
def test_permuting_a_group_permutes_its_advantages(rewards, order):
    for advantages in (group_advantages, centered_advantages):
        direct, permuted = advantages(jnp.asarray(rewards)), advantages(jnp.asarray(rewards[:, order]))
        np.testing.assert_allclose(direct[:, list(order)], permuted, rtol=1e-4, atol=1e-5)


@given(REWARDS)
def test_groups_are_centered_scaled_and_apart(rewards):
    got = np.asarray(group_advantages(jnp.asarray(rewards), eps=1e-6))
    np.testing.assert_allclose(got.sum(-1), 0, atol=1e-4)
    varied = rewards.std(-1) > 0
    np.testing.assert_allclose(got.std(-1, ddof=1), varied.astype(float), atol=1e-3)
    np.testing.assert_allclose(got[:1], group_advantages(jnp.asarray(rewards[:1]), eps=1e-6), rtol=1e-5)


@given(REWARDS, st.sampled_from([2.0, 4.0]), st.sampled_from([-1.0, 2.0]))
def test_only_the_z_score_ignores_scale(rewards, scale, shift):
    x, y = jnp.asarray(rewards), jnp.asarray(rewards * np.float32(scale) + np.float32(shift))
    np.testing.assert_allclose(group_advantages(x, eps=0.0), group_advantages(y, eps=0.0), atol=1e-4)
    np.testing.assert_allclose(centered_advantages(x) * scale, centered_advantages(y), atol=1e-4)


def test_zero_variance_share_counts_groups():
    rewards = jnp.array([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]])
    assert float(zero_variance_share(rewards)) == 0.5
