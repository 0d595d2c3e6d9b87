"""Demonstrations as members of a group: off-policy guidance with a shaped policy (LUFFY, arXiv:2504.14945).

A demonstration that earns more than the samples gives a group that is all poor something to be compared with; unlike an
anchor it is learned from, and unlike a supervised mix-in only as far as it is better than what the policy finds itself.
"""

import chex
import jax
import jax.numpy as jnp

from lqlm.types import Array


def with_demonstration(rewards_BG: Array, reward: float) -> Array:
    """Rewards of the samples and of one demonstration, last: what the advantages of all are computed from.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      reward: what the demonstration earns.

    Returns:
      float32 [..., G + 1].
    """
    rewards = rewards_BG.astype(jnp.float32)
    return jnp.concatenate([rewards, jnp.full((*rewards.shape[:-1], 1), reward, jnp.float32)], axis=-1)


def shaped_probability(logp: Array, *, gamma: float = 0.1) -> Array:
    """Policy shaping, ``f(p) = p / (p + gamma)``, of the probability of a token that another policy wrote.

    The ratio to that policy is taken with its probability as 1.  ``df/dlogp = gamma p / (p + gamma)^2`` is greatest at
    p = gamma: tokens that the policy finds unlikely, where the plain ratio p has hardly a gradient, teach the most.

    Args:
      logp: [...] log-probabilities.
      gamma: above 0; the paper's is 0.1.

    Returns:
      [...], from 0 to ``1 / (1 + gamma)``.

    >>> [f"{value:.3f}" for value in shaped_probability(jnp.log(jnp.array([0.1, 0.3])))]
    ['0.500', '0.750']
    """
    return jax.nn.sigmoid(logp - jnp.log(jnp.float32(gamma)))  # p / (p + gamma), without an overflow


def shaped_loss(logp: Array, weights: Array, *, gamma: float = 0.1) -> Array:
    """``-sum_t w_t f(p_t)`` of demonstrations, neither clipped nor tied to a reference (LUFFY, equation 7).

    Args:
      logp: [...] log-probabilities of the demonstrations' tokens; the only argument with a gradient.
      weights: [...] of the tokens (`lqlm.algorithms.policy.token_weights`) times the advantages; what has weight 0 is
        not looked at.
      gamma: of `shaped_probability`.

    Returns:
      float32 [].

    >>> print(shaped_loss(jnp.log(jnp.array([0.1, 0.3])), jnp.array([0.5, 1.0])))
    -1.0
    """
    chex.assert_equal_shape([logp, weights])
    logp = jnp.where(weights != 0, logp, 0.0)
    return -jnp.sum(jax.lax.stop_gradient(weights) * shaped_probability(logp, gamma=gamma))
