"""More samples for groups that teach nothing: groups that grow, and which samples of a grown one are learned from.

The other way, fresh prompts in place of groups whose rewards are all equal (the dynamic sampling of DAPO,
arXiv:2503.14476), needs a choice only: `informative_first`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lqlm.masked import masked_mean, masked_var
from lqlm.types import Array


class Kept(NamedTuple):
    """Samples of each group that are learned from.

    Attributes:
      indices_BK: int32, of the samples in their group.
      factors_BK: float32, what their advantages are multiplied by.
    """

    indices_BK: Array
    factors_BK: Array


def grown_advantages(rewards_BN: Array, mask_BN: Array, *, eps: float = 1e-4) -> Array:
    """`lqlm.algorithms.advantages.group_advantages` of groups of unequal size.

    Args:
      rewards_BN: [B, N] rewards, any numeric type.
      mask_BN: bool [B, N], true at samples that there are.
      eps: added to the standard deviation.

    Returns:
      float32 [B, N]; exactly 0 outside the mask and where all rewards of a group are equal.  A NaN among a group's
      samples makes its advantages NaN.
    """
    centered = grown_centered_advantages(rewards_BN, mask_BN)
    std = jnp.sqrt(masked_var(rewards_BN, mask_BN, -1, ddof=1))[..., None]
    return jnp.where(centered == 0, centered, centered / (std + eps))


def grown_centered_advantages(rewards_BN: Array, mask_BN: Array) -> Array:
    """`lqlm.algorithms.advantages.centered_advantages` of groups of unequal size; arguments as `grown_advantages`.

    Args:
      rewards_BN: [B, N] rewards, any numeric type.
      mask_BN: bool [B, N], true at samples that there are.

    Returns:
      float32 [B, N].
    """
    rewards = rewards_BN.astype(jnp.float32)
    low = jnp.min(jnp.where(mask_BN, rewards, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(mask_BN, rewards, -jnp.inf), axis=-1, keepdims=True)
    centered = rewards - masked_mean(rewards, mask_BN, -1)[..., None]
    return jnp.where(mask_BN & (low != high), centered, 0.0)


def kept_samples(advantages_BN: Array, mask_BN: Array, keep: int) -> Kept:
    """Choose `keep` samples of each grown group so that the expected gradient stays that of the whole group.

    Those with a positive advantage and the others are two strata; each keeps its share of `keep`, rounded but at least
    one, and its first samples, which are as random as any.  The factor ``(n_s / k_s) (keep / N)`` undoes the choice
    (Horvitz and Thompson, 1952): one success among 16 samples stays in a group of 8, weighted by 1/2.

    Args:
      advantages_BN: [B, N] of the whole groups.
      mask_BN: bool [B, N], true at samples that there are, at least `keep` in each group.
      keep: samples of each group.

    Returns:
      `Kept`; a group of exactly `keep` samples keeps all, in order, with factors of 1.
    """
    positive = mask_BN & (advantages_BN > 0)
    other = mask_BN & ~positive
    total, better = _count(mask_BN), _count(positive)
    share = jnp.round(keep * better / total)
    share = jnp.where((better > 0) & (better < total), jnp.clip(share, 1.0, keep - 1.0), share)
    chosen, factors = jnp.zeros_like(mask_BN), jnp.zeros(mask_BN.shape, jnp.float32)
    for stratum, number in ((positive, share), (other, keep - share)):
        here = stratum & (jnp.cumsum(stratum.astype(jnp.float32), axis=-1) <= number)
        factor = _count(stratum) / jnp.maximum(number, 1.0) * (keep / total)
        chosen, factors = chosen | here, jnp.where(here, factor, factors)
    indices = jnp.argsort(~chosen, axis=-1, stable=True)[:, :keep]
    return Kept(indices, jnp.take_along_axis(factors, indices, axis=-1))


def _count(mask: Array) -> Array:
    return jnp.sum(mask.astype(jnp.float32), axis=-1, keepdims=True)


def informative_first(equal_M: list[bool], count: int) -> list[int]:
    """Which of M groups to learn from: the first ones whose rewards differ, then, for want of others, the first ones.

    Args:
      equal_M: whether all rewards of a group are equal.
      count: groups wanted; at most M.

    Returns:
      `count` indices, in order.

    >>> informative_first([True, False, True, False], 3)
    [0, 1, 3]
    """
    order = sorted(range(len(equal_M)), key=lambda group: equal_M[group])  # a stable sort
    return sorted(order[:count])
