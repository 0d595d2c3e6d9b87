"""Remedies for groups that are all poor or all equal: by hand, and what each does with the odd cases."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms import remedies
from lqlm.algorithms.advantages import (
    batch_advantages,
    decoupled_advantages,
    group_advantages,
    leave_one_out_advantages,
    process_advantages,
)

ENTROPY = jnp.array([[[0.5, 2.0, 1.0], [3.0, 0.0, 9.0]]])
MASK = jnp.array([[[True, True, True], [True, True, False]]])

# Each as a function of rewards [B, G] alone, and what it gives to two zeros, to two ones, and to one zero (G = 1).
KINDS = {
    "mixed": (lambda r: remedies.mixed_advantages(r, 0.25, weight=0.5), -0.125, 0.375, -0.125),
    "anchored": (
        lambda r: remedies.anchored_advantages(r, jnp.ones_like(r[..., :1]), eps=0.0),
        -(3**-0.5),
        0.0,
        -(0.5**0.5),
    ),
    "ngrpo": (lambda r: remedies.ngrpo_advantages(r, eps=0.0), -(2**-0.5), 0.0, -1.0),
    "avspo": (lambda r: remedies.avspo_advantages(r, virtual=2.0), -1.0, 1.0, -(2**0.5)),
    "mapo": (remedies.mapo_advantages, 0.0, 0.0, 0.0),
    "leave_one_out": (leave_one_out_advantages, 0.0, 0.0, 0.0),
    "batch": (batch_advantages, 0.0, 0.0, 0.0),
    "gdpo": (lambda r: decoupled_advantages(r[None], jnp.ones(1)), 0.0, 0.0, 0.0),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@EACH
def test_groups_of_equal_rewards_and_of_one_sample(kind):
    advantages, zeros, ones, alone = KINDS[kind]
    np.testing.assert_allclose(advantages(jnp.zeros((1, 2), jnp.int32)), [[zeros] * 2], rtol=1e-6)
    np.testing.assert_allclose(advantages(jnp.ones((1, 2), jnp.int32)), [[ones] * 2], rtol=1e-6)
    np.testing.assert_allclose(advantages(jnp.zeros((1, 1))), [[alone]], rtol=1e-6)


@EACH
def test_integers_are_not_rounded_and_a_nan_stays_in_its_group(kind):
    advantages = KINDS[kind][0]
    whole, real = advantages(jnp.array([[0, 1, 1], [2, 0, 1]])), advantages(jnp.array([[0.0, 1, 1], [2, 0, 1]]))
    assert whole.dtype == jnp.float32
    chex.assert_trees_all_close(whole, real)
    spoilt = np.asarray(advantages(jnp.array([[0.0, jnp.nan, 1], [2, 0, 1]])))
    assert np.isnan(spoilt[0]).any()
    if kind not in ("batch", "gdpo"):  # whose statistics are those of the batch
        np.testing.assert_allclose(spoilt[1], real[1], rtol=1e-6)


@EACH
def test_permuting_a_group_permutes_its_advantages(kind):
    advantages, rewards = KINDS[kind][0], jnp.array([[0.0, 1.0, 0.3, 0.3], [1.0, 0.0, 0.0, 0.0]])
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(advantages(rewards)[:, order], advantages(rewards[:, order]), rtol=1e-5, atol=1e-6)


def test_mixed_praises_no_poor_group():
    """The z-score of the least bad of a poor group is positive; the mix with an anchor above them is not."""
    rewards = jnp.array([[0.0, 0.1, 0.0, 0.0]])
    assert float(group_advantages(rewards).max()) > 1
    assert float(remedies.mixed_advantages(rewards, 0.9, weight=0.3).max()) < 0
    vanishing = remedies.mixed_advantages(jnp.full((1, 4), 0.1), 0.1, weight=0.3)  # an anchor from the group itself
    np.testing.assert_array_equal(vanishing, 0.0)


def test_the_running_anchor_follows_slowly():
    assert float(remedies.running_anchor(0.5, jnp.array([[1, 0, 1, 1]]), decay=0.8)) == pytest.approx(0.55)


def test_anchored_by_hand():
    got = remedies.anchored_advantages(jnp.array([[0.0, 0.0, 1.0]]), jnp.array([[1.0]]), eps=0.0)
    std = np.sqrt(4 * 0.25 / 3)
    np.testing.assert_allclose(got, [[-0.5 / std, -0.5 / std, 0.5 / std]], rtol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 8, 64])
def test_ngrpo_of_an_all_zero_group_is_minus_one_over_root_g(group):
    got = remedies.ngrpo_advantages(jnp.zeros((1, group)), eps=0.0)
    np.testing.assert_allclose(got, -1 / np.sqrt(group), rtol=1e-5)


def test_ngrpo_of_one_success_by_hand():
    got = remedies.ngrpo_advantages(jnp.array([[1.0, 0.0, 0.0]]), eps=0.0)  # with the virtual one: mean and std 1/2
    np.testing.assert_allclose(got, [[1.0, -1.0, -1.0]], rtol=1e-6)


def test_avspo_leaves_other_groups_alone_and_grows_with_the_collapse():
    rewards = jnp.array([[0.0, 1.0, 1.0, 0.0], [0.0] * 4, [1.0] * 4])
    got = remedies.avspo_advantages(rewards, virtual=1.0)
    np.testing.assert_allclose(got[0], group_advantages(rewards[:1])[0], rtol=1e-6)
    np.testing.assert_allclose(got[1:], [[-0.5] * 4, [0.5] * 4], rtol=1e-6)
    with_one = np.concatenate([np.zeros(4), [1.0]])  # by the statistics themselves
    np.testing.assert_allclose(got[1, 0], (0 - with_one.mean()) / with_one.std(), rtol=1e-6)
    counts = [float(remedies.virtual_samples(rate, 8)) for rate in (0.0, 0.5, 1.0)]
    assert counts == [1.0, 4.0, 8.0]


def test_mapo_by_hand():
    got = remedies.mapo_advantages(jnp.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), eps=0.0)
    # p = 1/4: l = 1/4, m = 1/4, s = 1/2; p = 1/2: l = 0, the z-score alone.
    np.testing.assert_allclose(got[0], [0.75 * 1.5 + 0.25 * 3] + [-0.75 * 0.5 - 0.25] * 3, rtol=1e-6)
    np.testing.assert_allclose(got[1], np.array([1, 1, -1, -1]) * 0.5 / np.sqrt(1 / 3), rtol=1e-6)
    below = jnp.array([[-1.0, -3.0, -2.0]])
    np.testing.assert_allclose(remedies.mapo_advantages(below), group_advantages(below), rtol=1e-6)


def test_zvp_by_hand():
    right = remedies.zvp_advantages(jnp.ones((1, 2)), ENTROPY, MASK, alpha=0.1)
    np.testing.assert_allclose(right, [[[0.05, 0.2, 0.1], [0.3, 0.0, 0.0]]], rtol=1e-6)
    wrong = remedies.zvp_advantages(jnp.zeros((1, 2)), ENTROPY, MASK, alpha=0.1)
    np.testing.assert_allclose(wrong, [[[-0.15, 0.0, -0.1], [0.0, -0.3, 0.0]]], rtol=1e-6, atol=1e-8)
    mixed = remedies.zvp_advantages(jnp.array([[1.0, 0.0]]), ENTROPY, MASK)
    want = np.where(MASK, np.asarray(group_advantages(jnp.array([[1.0, 0.0]])))[..., None], 0.0)
    np.testing.assert_allclose(mixed, want, rtol=1e-6)
    alone = remedies.zvp_advantages(jnp.zeros((1, 1)), ENTROPY[:, :1], MASK[:, :1])
    np.testing.assert_allclose(alone, wrong[:, :1], rtol=1e-6)
    assert np.isnan(remedies.zvp_advantages(jnp.array([[jnp.nan, 0.0]]), ENTROPY, MASK)[0, 0]).all()


def test_failing_groups_are_those_without_a_right_sample():
    rewards = jnp.array([[0.0, 0.9], [1.0, 0.0], [jnp.nan, jnp.nan], [jnp.nan, 1.0]])
    np.testing.assert_array_equal(remedies.failing_groups(rewards), [1.0, 0.0, 1.0, 0.0])


def test_process_supervision_by_hand():
    """Two outputs with steps that end at tokens 1 and 3, and at token 0: rewards 1, 0 and 0.5, mean 0.5, std 0.5."""
    rewards = jnp.array([[[9.0, 1.0, 9.0, 0.0], [0.5, 9.0, 9.0, 9.0]]])
    ends = jnp.array([[[False, True, False, True], [True, False, False, True]]])
    mask = jnp.array([[[True] * 4, [True, True, False, False]]])
    got = process_advantages(rewards, ends, mask, eps=0.0)
    np.testing.assert_allclose(got, [[[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]]], atol=1e-6)
    equal = process_advantages(jnp.full((1, 2, 4), 0.7), ends, mask)
    np.testing.assert_array_equal(equal, 0.0)
    one = process_advantages(rewards[:, 1:], ends[:, 1:], mask[:, 1:])
    np.testing.assert_array_equal(one, 0.0)


def test_process_supervision_of_one_step_is_outcome_supervision():
    outcome = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    ends = jnp.zeros((2, 3, 4), bool).at[..., 3].set(True)
    got = process_advantages(jnp.broadcast_to(outcome[..., None], ends.shape), ends, jnp.ones_like(ends))
    want = jnp.broadcast_to(group_advantages(outcome)[..., None], ends.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5)
