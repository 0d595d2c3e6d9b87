"""Advantages and returns of completions under a value function, and their whitening.

Everything here is a function of padded completions: what stands outside a mask is not looked at, whatever it is.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from lqlm.masked import masked_mean, masked_var
from lqlm.types import Array

WHITEN_EPS = 1e-8


class Estimates(NamedTuple):
    """What a value function says about a rollout; float32 [..., C], 0 outside the mask."""

    advantages: Array
    returns: Array  # advantages + values: what the value function is to be fitted to


def gae(rewards: Array, values: Array, mask: Array, *, gamma: float = 1.0, lam: float = 0.95) -> Estimates:
    """Generalized advantage estimation, ``A_t = delta_t + gamma lam A_{t+1}``, ``delta_t = r_t + gamma V_{t+1} - V_t``.

    Schulman et al. 2016 (arXiv:1506.02438), equation 16.  The value after the last state is 0, also where a completion
    was cut off by its greatest length; so TRL's PPOTrainer (1.12) has it.

    Args:
      rewards: [..., C] of each step, any numeric type.
      values: [..., C], of the state before each step.
      mask: [..., C], true at the states of an episode, which come first.
      gamma: discount.
      lam: 0 trusts the values (``A = delta``), 1 the rewards (``A`` = discounted returns - V).

    Returns:
      `Estimates`, the advantages not whitened.

    >>> print(gae(jnp.array([0, 0, 1]), jnp.zeros(3), jnp.array([1, 1, 1]), lam=0.5).advantages)
    [0.25 0.5  1.  ]
    """
    rewards, values, mask = _clean(rewards, values, mask)
    following = jnp.concatenate([values[..., 1:], jnp.zeros_like(values[..., :1])], axis=-1)
    delta = rewards + gamma * following - values
    advantages = _decayed_sum(delta, gamma * lam)
    return _estimates(advantages, values, mask)


def gae_between(rewards: Array, values: Array, mask: Array, *, gamma: float = 1.0, lam: float = 0.95) -> Estimates:
    """`gae` over the policy's own tokens only, as if what others wrote between them were not there.

    For completions of several turns: ``V_{t+1}`` is the value at the next true token, and neither discount nor lam
    counts the tokens in between (verl's ``compute_gae_advantage_return``).  Where the true tokens come first it is
    `gae`.

    Args:
      rewards: [..., C] of each step; those outside the mask do not count.
      values: [..., C].
      mask: [..., C], true at tokens that the policy drew; false ones may stand anywhere.
      gamma: discount.
      lam: as in `gae`.

    Returns:
      `Estimates`; 0 outside the mask (verl repeats the next token's advantage there, which nothing reads).

    >>> print(gae_between(jnp.array([0, 9, 1]), jnp.zeros(3), jnp.array([1, 0, 1]), lam=0.5).advantages)
    [0.5 0.  1. ]
    """
    rewards, values, mask = _clean(rewards, values, mask)

    def step(carry: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (value_after, advantage_after), (reward, value, real) = carry, now
        advantage = reward + gamma * value_after - value + gamma * lam * advantage_after
        kept = jnp.where(real, value, value_after), jnp.where(real, advantage, advantage_after)
        return kept, kept[1]

    zeros = jnp.zeros_like(values[..., 0])
    steps = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (rewards, values, mask))
    _, advantages = jax.lax.scan(step, (zeros, zeros), steps, reverse=True)
    return _estimates(jnp.moveaxis(advantages, 0, -1), values, mask)


def discounted_returns(rewards: Array, mask: Array, *, gamma: float = 1.0) -> Array:
    """Sum of all later rewards, ``R_t = r_t + gamma R_{t+1}``.

    Args:
      rewards: [..., C] of each step, any numeric type.
      mask: [..., C], true at the steps of an episode, which come first.
      gamma: discount.

    Returns:
      float32 [..., C], 0 outside the mask.

    >>> print(discounted_returns(jnp.array([1, 0, 4]), jnp.array([1, 1, 1]), gamma=0.5))
    [2. 2. 4.]
    """
    rewards, _, mask = _clean(rewards, rewards, mask)
    return jnp.where(mask, _decayed_sum(rewards, gamma), 0.0)


def whiten(x: Array, mask: Array) -> Array:
    """``(x - mean) / sqrt(var + 1e-8)`` over the selected elements, with Bessel's variance.

    TRL's ``masked_whiten``.  Equal elements, and a single one, become 0 (TRL divides by zero for a single one).

    Args:
      x: [...], any numeric type.
      mask: [...], true where an element counts.

    Returns:
      float32 [...], 0 outside the mask.

    >>> print(whiten(jnp.array([1.0, 3.0, 7.0]), jnp.array([1, 1, 0])).round(3))
    [-0.707  0.707  0.   ]
    """
    mask = mask.astype(bool)
    centered = jnp.where(mask, x.astype(jnp.float32), 0.0) - masked_mean(x, mask)
    return jnp.where(mask, centered * jax.lax.rsqrt(masked_var(x, mask, ddof=1) + WHITEN_EPS), 0.0)


def whiten_keeping_mean(x: Array, mask: Array) -> Array:
    """`whiten`, with the mean put back: what TRL does to rewards (``whiten_rewards``), whose sign has a meaning.

    Args:
      x: [...], any numeric type.
      mask: [...], true where an element counts.

    Returns:
      float32 [...], 0 outside the mask.

    >>> print(whiten_keeping_mean(jnp.array([1.0, 3.0, 7.0]), jnp.array([1, 1, 0])).round(2))
    [1.29 2.71 0.  ]
    """
    return jnp.where(mask.astype(bool), whiten(x, mask) + masked_mean(x, mask), 0.0)


def explained_variance(values: Array, returns: Array, mask: Array) -> Array:
    """Share of the returns' variance that the values account for, ``1 - var(R - V) / var(R)``.

    Args:
      values: [...].
      returns: [...].
      mask: [...], true where an element counts.

    Returns:
      float32 []: 1 of a perfect value function, 0 of a constant one or where all returns are equal, negative of a
      worse one.

    >>> print(explained_variance(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0]), jnp.array([1, 1])))
    0.75
    """
    total, rest = masked_var(returns, mask), masked_var(returns - values, mask)
    return jnp.where(total > 0, 1.0 - rest / jnp.where(total > 0, total, 1.0), 0.0)


def _clean(rewards: Array, values: Array, mask: Array) -> tuple[Array, Array, Array]:
    """In float32 (an integer reward of a half would be 0), and 0 outside the mask."""
    chex.assert_equal_shape([rewards, values, mask])
    mask = mask.astype(bool)
    rewards, values = (jnp.where(mask, x.astype(jnp.float32), 0.0) for x in (rewards, values))
    return rewards, values, mask


def _decayed_sum(x: Array, decay: float) -> Array:
    """``y_t = x_t + decay y_{t+1}`` along the last axis."""

    def step(after: Array, now: Array) -> tuple[Array, Array]:
        total = now + decay * after
        return total, total

    _, sums = jax.lax.scan(step, jnp.zeros_like(x[..., 0]), jnp.moveaxis(x, -1, 0), reverse=True)
    return jnp.moveaxis(sums, 0, -1)


def _estimates(advantages: Array, values: Array, mask: Array) -> Estimates:
    return Estimates(jnp.where(mask, advantages, 0.0), jnp.where(mask, advantages + values, 0.0))
