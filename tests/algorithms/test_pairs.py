"""Pairs from groups of samples: the best against the worst, no sample twice, nothing where nothing differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lqlm.algorithms.pairs import CHOSEN, REJECTED, PairBatch, best_against_worst, pairs_of_groups, real_pairs

few = st.sampled_from([0.0, 0.5, 1.0])  # rewards that are often equal
rewards = arrays(np.float32, (3, 6), elements=few.map(np.float32))
counts = st.integers(1, 3)


def groups(rng, B=3, G=6, C=5, P=4):
    """Samples whose tokens are all different, of ragged lengths."""
    lengths = rng.integers(1, C + 1, (B, G, 1))
    tokens = rng.permutation(B * G * C).reshape(B, G, C).astype(np.int32)
    prompts = rng.integers(0, 9, (B, P)).astype(np.int32), rng.random((B, P)) < 0.7
    return PairBatch(*map(jnp.asarray, (*prompts, tokens, np.arange(C) < lengths, np.ones(B, np.float32))))


def test_by_hand():
    places = best_against_worst(jnp.array([[0.2, 0.9, 0.1, 0.5, 0.7]]), 2)
    np.testing.assert_array_equal(places.chosen_BK, [[1, 4]])
    np.testing.assert_array_equal(places.rejected_BK, [[2, 0]])
    np.testing.assert_array_equal(places.real_BK, [[True, True]])


@given(rewards, counts)
def test_the_best_against_the_worst(rewards_BG, pairs):
    places = jax.tree.map(np.asarray, best_against_worst(jnp.asarray(rewards_BG), pairs))
    assert places.chosen_BK.dtype == places.rejected_BK.dtype == np.int32 and places.real_BK.dtype == bool
    ordered = np.sort(rewards_BG, axis=1)
    high, low = (np.take_along_axis(rewards_BG, x, 1) for x in places[:2])
    np.testing.assert_array_equal(high, ordered[:, ::-1][:, :pairs])
    np.testing.assert_array_equal(low, ordered[:, :pairs])
    np.testing.assert_array_equal(places.real_BK, high > low)
    for chosen, rejected in zip(*places[:2]):
        assert len({*chosen.tolist(), *rejected.tolist()}) == 2 * pairs  # no sample is in two pairs
    most = np.minimum((rewards_BG == 1).sum(1), (rewards_BG == 0).sum(1))
    assert (places.real_BK.sum(1) >= np.minimum(most, pairs)).all()  # of right and wrong answers none is wasted


@given(rewards, counts, st.integers(0, 9))
def test_pairs_hold_the_samples_of_their_group(rewards_BG, pairs, seed):
    batch = groups(np.random.default_rng(seed))
    made = pairs_of_groups(batch, jnp.asarray(rewards_BG), pairs)
    assert made.completions_BGC.shape == (3 * pairs, 2, 5) and made.ref_logp_BGC is None
    np.testing.assert_array_equal(made.margin_B, 0.0)
    np.testing.assert_array_equal(made.prompts_BP, np.repeat(batch.prompts_BP, pairs, axis=0))
    np.testing.assert_array_equal(made.prompt_mask_BP, np.repeat(batch.prompt_mask_BP, pairs, axis=0))
    places = best_against_worst(jnp.asarray(rewards_BG), pairs)
    np.testing.assert_array_equal(real_pairs(made.completion_mask_BGC), places.real_BK.reshape(-1))
    for b, k in np.ndindex(3, pairs):
        for side, of in ((CHOSEN, places.chosen_BK), (REJECTED, places.rejected_BK)):
            row, sample = b * pairs + k, int(of[b, k])
            np.testing.assert_array_equal(made.completions_BGC[row, side], batch.completions_BGC[b, sample])
            mask = batch.completion_mask_BGC[b, sample] & places.real_BK[b, k]
            np.testing.assert_array_equal(made.completion_mask_BGC[row, side], mask)


@given(rewards, st.permutations(range(6)))
def test_the_order_of_different_samples_does_not_matter(rewards_BG, order):
    different = jnp.asarray(rewards_BG + np.arange(6, dtype=np.float32) / 64)
    plain, moved = (best_against_worst(x, 3) for x in (different, different[:, np.array(order)]))
    for one, two in zip(plain[:2], moved[:2]):
        np.testing.assert_array_equal(one, np.array(order)[np.asarray(two)])


def test_compiled_once_and_equal():
    compiled = jax.jit(pairs_of_groups, static_argnums=2)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        batch, found = groups(rng), jnp.asarray(rng.integers(0, 2, (3, 6)).astype(np.float32))
        jax.tree.map(np.testing.assert_array_equal, compiled(batch, found, 2), pairs_of_groups(batch, found, 2))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("pairs", [0, 4])
def test_a_group_has_only_so_many_pairs(pairs):
    with pytest.raises(ValueError, match=f"pairs is {pairs}; a group of 6 has 1 to 3"):
        best_against_worst(jnp.zeros((1, 6)), pairs)
