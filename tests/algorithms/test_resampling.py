"""Groups that grow: statistics of ragged groups, and a choice of samples that keeps the expected gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms.advantages import centered_advantages, group_advantages
from lqlm.algorithms.resampling import (
    grown_advantages,
    grown_centered_advantages,
    informative_first,
    kept_samples,
)
from lqlm.algorithms.selection import high_entropy_tokens, on_policy_sequences, without_truncated

REWARDS = np.array([[1, 0, 0, 1, 9, 9], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 9, 9], [0, 0.5, 0, 0, 1, 0]], np.float32)
SIZES = (4, 6, 4, 6)
MASK = np.arange(6) < np.array(SIZES)[:, None]


@pytest.mark.parametrize(
    ("grown", "plain"), [(grown_advantages, group_advantages), (grown_centered_advantages, centered_advantages)]
)
def test_each_group_is_as_if_it_were_alone(grown, plain):
    got = np.asarray(grown(jnp.asarray(REWARDS), jnp.asarray(MASK)))
    for row, rewards, size in zip(got, REWARDS, SIZES):
        np.testing.assert_allclose(row[:size], plain(jnp.asarray(rewards[None, :size]))[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(row[size:], 0.0)


def test_whole_groups_are_kept_as_they_are():
    kept = kept_samples(grown_advantages(jnp.asarray(REWARDS), jnp.asarray(MASK)), jnp.asarray(MASK), 4)
    for row in (0, 2):
        np.testing.assert_array_equal(kept.indices_BK[row], range(4))
        np.testing.assert_array_equal(kept.factors_BK[row], 1.0)
    assert 5 in kept.indices_BK[1].tolist()  # the only success


def test_the_kept_samples_stand_for_the_whole_group():
    """Within a stratum of equal rewards, the weighted sum is that of the whole group over N / keep."""
    rewards = jnp.asarray((np.random.default_rng(0).random((20, 16)) < 0.2).astype(np.float32))
    mask = jnp.ones_like(rewards, bool)
    advantages = grown_advantages(rewards, mask)
    kept = kept_samples(advantages, mask, 4)
    taken = jnp.take_along_axis(advantages, kept.indices_BK, -1) * kept.factors_BK
    positive = jnp.sum(jnp.maximum(taken, 0), -1)
    np.testing.assert_allclose(positive, jnp.sum(jnp.maximum(advantages, 0), -1) * 4 / 16, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(taken, -1), 0.0, atol=1e-5)
    assert all(len(set(row)) == 4 for row in kept.indices_BK.tolist())


def test_fresh_groups_take_the_places_of_those_that_teach_nothing():
    assert informative_first([True, False, True, False, False], 2) == [1, 3]
    assert informative_first([True, True, True], 2) == [0, 1]


def test_the_tokens_of_highest_entropy():
    entropy = jnp.array([[0.1, 0.2, 0.3], [0.4, 9.0, 9.0]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    half = high_entropy_tokens(entropy, mask, 0.5)  # the median is 0.25
    np.testing.assert_array_equal(half, [[False, False, True], [True, False, False]])
    np.testing.assert_array_equal(high_entropy_tokens(entropy, mask, 1.0), mask)
    assert not high_entropy_tokens(entropy, jnp.zeros_like(mask), 0.5).any()


def test_bad_sequences_far_away_are_left_out_and_cut_off_ones_too():
    mask = jnp.array([[True, True], [True, False], [True, True]])
    logp, old = (
        jnp.array([[-3.0, -1.0], [-1.0, 0.0], [-3.0, -3.0]]),
        jnp.array([[-1.0, jnp.nan], [-1.0, 0.0], [-1.0, -1.0]]),
    )
    advantages = jnp.array([[-1.0], [-1.0], [1.0]])
    np.testing.assert_array_equal(on_policy_sequences(advantages, logp, old, mask, 0.5), [[False], [True], [True]])
    filtered = without_truncated(mask, jnp.array([True, False, True]))
    np.testing.assert_array_equal(filtered, [[True, True], [False, False], [True, True]])
