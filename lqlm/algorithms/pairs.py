"""Pairs of completions of one prompt, one of them preferred: what a reward model and DPO learn from."""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm.types import Array

CHOSEN, REJECTED = 0, 1


@flax.struct.dataclass
class PairBatch:
    """B pairs; of the group axis (G = 2), entry 0 is the chosen completion and entry 1 the rejected one."""

    prompts_BP: Array  # int32, left-padded
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32, right-padded
    completion_mask_BGC: Array  # bool
    margin_B: Array  # float32, by how much the chosen one should lead at least; 0 where nothing is known
    ref_logp_BGC: Array | None = None  # float32, of the base without adapters; DPO needs it


def real_pairs(mask_BGC: Array) -> Array:
    """Which rows hold a pair: a row that fills a batch up has no completion token on either side.

    Args:
      mask_BGC: bool, true at real completion tokens.

    Returns:
      bool [B].

    >>> print(real_pairs(jnp.array([[[True, False], [False, False]], [[False, False], [False, False]]])))
    [ True False]
    """
    return jnp.any(mask_BGC, axis=(-2, -1))


class Places(NamedTuple):
    """Of each of B groups K pairs of samples.

    Attributes:
      chosen_BK, rejected_BK: int32, places in the group.
      real_BK: bool, whether the chosen sample is the better one; false where no two samples are left that differ.
    """

    chosen_BK: Array
    rejected_BK: Array
    real_BK: Array


def best_against_worst(rewards_BG: Array, pairs: int) -> Places:
    """The best sample of each group against its worst, the second best against the second worst, and so on.

    On-policy pairs of preferences (online DPO, arXiv:2402.04792; of right and wrong answers, arXiv:2404.19733).  No
    sample is in two pairs; samples of equal reward are no pair.

    Args:
      rewards_BG: finite; G samples of each prompt.
      pairs: K, of each group; at most ``G / 2``.

    Returns:
      `Places`; the pairs of a group in the order of their lead, those that are none last.

    >>> places = best_against_worst(jnp.array([[0.0, 3.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0]]), 2)
    >>> print(places.chosen_BK[0], places.rejected_BK[0])
    [3 1] [0 2]
    >>> print(places.real_BK)
    [[ True  True]
     [False False]]
    """
    chex.assert_rank(rewards_BG, 2)
    if not 1 <= pairs <= rewards_BG.shape[1] // 2:
        raise ValueError(f"pairs is {pairs}; a group of {rewards_BG.shape[1]} has 1 to {rewards_BG.shape[1] // 2}")
    order_BG = jnp.argsort(rewards_BG, axis=-1, stable=True).astype(jnp.int32)
    rejected, chosen = order_BG[:, :pairs], order_BG[:, ::-1][:, :pairs]
    high, low = (jnp.take_along_axis(rewards_BG, places, axis=-1) for places in (chosen, rejected))
    return Places(chosen, rejected, high > low)


def pairs_of_groups(batch: PairBatch, rewards_BG: Array, pairs: int) -> PairBatch:
    """From G samples of each of B prompts to ``B K`` pairs, by `best_against_worst`.

    Args:
      batch: of groups; its completions and their mask are [B, G, C], its margins are not looked at.
      rewards_BG: finite.
      pairs: K, of each group; at most ``G / 2``.

    Returns:
      The pairs, those of a group one after the other, with margins of 0.  A row without a pair has no completion
      tokens, as `real_pairs` knows it.
    """
    chex.assert_equal_shape_prefix([batch.completions_BGC, batch.completion_mask_BGC, rewards_BG], 2)
    places = best_against_worst(rewards_BG, pairs)
    sides_BK2 = jnp.stack([places.chosen_BK, places.rejected_BK], axis=-1)
    groups_B11 = jnp.arange(len(rewards_BG))[:, None, None]

    def picked(x_BGC: Array) -> Array:
        return x_BGC[groups_B11, sides_BK2].reshape(-1, 2, x_BGC.shape[-1])

    real_N = places.real_BK.reshape(-1)
    return PairBatch(
        prompts_BP=jnp.repeat(batch.prompts_BP, pairs, axis=0),
        prompt_mask_BP=jnp.repeat(batch.prompt_mask_BP, pairs, axis=0),
        completions_BGC=picked(batch.completions_BGC),
        completion_mask_BGC=picked(batch.completion_mask_BGC.astype(bool)) & real_N[:, None, None],
        margin_B=jnp.zeros(real_N.shape, jnp.float32),
    )


def pair_weights(real_B: Array) -> Array:
    """Weight of each pair in a mean over the full batch, ``1 / n`` for its n real pairs and 0 for the others.

    Args:
      real_B: bool [B] of the full batch, not of a part of it.

    Returns:
      float32 [B]; all 0 where there is no pair.
    """
    real = real_B.astype(jnp.float32)
    return real / jnp.maximum(jnp.sum(real), 1.0)


def weighted(values_B: Array, weights_B: Array) -> Array:
    """``sum_i w_i x_i``, without looking at what has weight 0.

    Args:
      values_B: [B].
      weights_B: [B] of `pair_weights`.

    Returns:
      float32 [].
    """
    chex.assert_equal_shape([values_B, weights_B])
    return jnp.sum(weights_B * jnp.where(weights_B > 0, values_B, 0.0))


def side_sums(values_BGC: Array, mask_BGC: Array) -> tuple[Array, Array]:
    """Sums over the real tokens of the chosen and of the rejected completions.

    Args:
      values_BGC: of both sides, G = 2.
      mask_BGC: bool, true at real tokens.

    Returns:
      (chosen float32 [B], rejected float32 [B]); 0 for an empty side.
    """
    chex.assert_equal_shape([values_BGC, mask_BGC])
    chex.assert_axis_dimension(mask_BGC, -2, 2)
    sums = jnp.sum(jnp.where(mask_BGC, values_BGC.astype(jnp.float32), 0.0), axis=-1)
    return sums[..., CHOSEN], sums[..., REJECTED]


def mean_of(sums: dict[str, Array], weight: Array) -> dict[str, Array]:
    """Each of the sums divided by a number, 0 where that is 0."""
    return jax.tree.map(lambda x: x / jnp.maximum(weight, 1.0), sums)
