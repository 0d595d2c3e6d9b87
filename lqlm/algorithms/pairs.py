"""Pairs of completions of one prompt, one of them preferred: what a reward model and DPO learn from."""

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
