"""The terms that losses of an actor and a critic are made of, and what is logged of every one."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from lqlm import logprobs
from lqlm.algorithms import policy
from lqlm.algorithms.actor_critic import Experience, Outputs, PPOBatch, Weights
from lqlm.algorithms.step import Metrics
from lqlm.masked import masked_sum
from lqlm.types import Array


def clipped_value_error(values: Array, old_values: Array, returns: Array, epsilon: float) -> Array:
    """``0.5 max((V - R)^2, (clip(V, V_old - epsilon, V_old + epsilon) - R)^2)`` of each state.

    Args:
      values: [...], the argument with a gradient.
      old_values: [...] at the time of the rollout.
      returns: [...].
      epsilon: how far a value may move towards its return and still gain by it.

    Returns:
      [...].

    >>> print(clipped_value_error(jnp.array([1.0, -1.0]), jnp.zeros(2), jnp.ones(2), 0.5))
    [0.125 2.   ]
    """
    chex.assert_equal_shape([values, old_values, returns])
    clipped = jnp.clip(values, old_values - epsilon, old_values + epsilon)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns))


def value_error(values: Array, returns: Array) -> Array:
    """``0.5 (V - R)^2`` of each state.

    Args:
      values: [...].
      returns: [...].

    Returns:
      [...].
    """
    return 0.5 * jnp.square(values - returns)


class Terms(NamedTuple):
    """What a policy's loss is made of; [..., C], 0 outside the mask."""

    logp: Array
    old_logp: Array
    advantages: Array
    mask: Array  # bool


def policy_terms(outputs: Outputs, batch: PPOBatch) -> Terms:
    """New and old log-probabilities, advantages and mask, without anything that may stand in the padding.

    Args:
      outputs: of policy and value function, for the completions of the batch.
      batch: or a part of one.

    Returns:
      `Terms`; only logp has a gradient.
    """
    found = batch.experience
    chex.assert_equal_shape([outputs.logp, outputs.values, *jax.tree.leaves(found)])
    mask = found.mask.astype(bool)
    fixed = [jax.lax.stop_gradient(x) for x in (found.old_logp, found.advantages)]
    logp, old_logp, advantages = (jnp.where(mask, x, 0.0) for x in (outputs.logp, *fixed))
    return Terms(logp, old_logp, advantages, mask)


def value_part(
    outputs: Outputs, experience: Experience, weights: Array, epsilon: float | None
) -> tuple[Array, Metrics]:
    """Weighted sum of the value errors, clipped where there is an epsilon.

    Args:
      outputs: their values.
      experience: returns and old values.
      weights: [..., C] of the states.
      epsilon: of `clipped_value_error`, or None.

    Returns:
      (loss [], sums ``states`` and ``value_clip_ratio``).
    """
    states = experience.states.astype(bool)
    fixed = [jax.lax.stop_gradient(x) for x in (experience.old_values, experience.returns)]
    values, old, returns = (jnp.where(states, x, 0.0) for x in (outputs.values, *fixed))
    plain = value_error(values, returns)
    error = plain if epsilon is None else clipped_value_error(values, old, returns, epsilon)
    sums = {"states": jnp.sum(states.astype(jnp.float32)), "value_clip_ratio": token_sum(error > plain, states)}
    return jnp.sum(weights * error), sums


def entropy_part(outputs: Outputs, batch: PPOBatch, weights: Weights) -> Array:
    """Weighted sum of the entropies.

    Args:
      outputs: their entropy.
      batch: its mask.
      weights: of the full batch.

    Returns:
      float32 [].
    """
    return jnp.sum(weights.tokens * jnp.where(batch.experience.mask, outputs.entropy, 0.0))


def token_sums(outputs: Outputs, batch: PPOBatch) -> Metrics:
    """Sums over real tokens of what is logged of every actor-critic.

    Args:
      outputs: of policy and value function.
      batch: or a part of one.

    Returns:
      float32 [] each: ``tokens``, ``ratio``, ``approx_kl`` (half the squared log-ratio) and ``entropy``.
    """
    logp, old_logp, _, mask = policy_terms(outputs, batch)
    ratio = policy.importance_ratio(logp, old_logp, mask)
    per_token = {"ratio": ratio, "approx_kl": logprobs.k2(logp, old_logp), "entropy": outputs.entropy}
    count = jnp.sum(mask.astype(jnp.float32))
    return {"tokens": count, **{name: token_sum(x, mask) for name, x in per_token.items()}}


def token_sum(x: Array, mask: Array) -> Array:
    """Sum over real tokens of a metric, without a gradient.

    Args:
      x: [..., C], any numeric type.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [].
    """
    return masked_sum(jax.lax.stop_gradient(x), mask)
