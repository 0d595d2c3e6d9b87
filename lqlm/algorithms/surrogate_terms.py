"""The equations of the surrogates that `lqlm.algorithms.surrogates` gives constants to, each a pure function."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lqlm.algorithms import policy
from lqlm.masked import masked_mean, masked_sum
from lqlm.types import Array

Bounds = tuple[float, float]  # (epsilon_low, epsilon_high), of `lqlm.algorithms.grpo.GRPOConfig`


class Term(NamedTuple):
    """A surrogate, evaluated.

    Attributes:
      objective: [..., C] or [..., 1], to be maximised; the same for all tokens of a sequence where that is 1.
      ratio: [..., C] of each token or [..., 1] of the sequence.
      shares: TRL's names -> bool or float [..., C] or [..., 1], to be averaged over tokens or over sequences.
    """

    objective: Array
    ratio: Array
    shares: dict[str, Array]


def _clips(ratio: Array, advantages: Array, bounds: Bounds) -> dict[str, Array]:
    clipped = policy.clipped_tokens(ratio, advantages, *bounds)
    return {
        "clip_ratio/low_mean": clipped.low,
        "clip_ratio/high_mean": clipped.high,
        "clip_ratio/region_mean": clipped.low | clipped.high,
    }


def clipped(ratio: Array, advantages: Array, bounds: Bounds, delta: float | None = None) -> Term:
    """``min(min(r, delta) A, clip(r, 1 - low, 1 + high) A)``: PPO's clip, and where wished a bound on both sides.

    PPO (arXiv:1707.06347).  `delta` (above 1 + high) ends the push against a bad token whose ratio has grown large,
    which the plain minimum leaves unbounded (INTELLECT-2, arXiv:2505.07291; dual clip, arXiv:1912.09729).

    Args:
      ratio: [..., C] or [..., 1].
      advantages: [..., C] or [..., 1].
      bounds: epsilon_low and epsilon_high.
      delta: greatest ratio in the unclipped branch; None: no bound.

    Returns:
      A `Term`.
    """
    bounded = ratio if delta is None else jnp.minimum(ratio, delta)
    inside = jnp.clip(ratio, 1.0 - bounds[0], 1.0 + bounds[1])
    objective = jnp.minimum(bounded * advantages, inside * advantages)
    return Term(objective, ratio, _clips(bounded, advantages, bounds))


def sequence_ratio(logp: Array, old_logp: Array, mask: Array) -> Array:
    """Ratio of whole sequences, length-normalised: ``exp(mean_t (logp_t - old_logp_t))`` (GSPO, arXiv:2507.18071).

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [..., 1]; 1 for a sequence without tokens.
    """
    return jnp.exp(masked_mean(logp - old_logp, mask, axis=-1))[..., None]


def summed_ratio(logp: Array, old_logp: Array, mask: Array) -> Array:
    """Ratio of whole sequences, ``exp(sum_t (logp_t - old_logp_t))``, as RLOO clips it; arguments as `sequence_ratio`.

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [..., 1].
    """
    return jnp.exp(masked_sum(logp - old_logp, mask, axis=-1))[..., None]


def cispo(logp: Array, old_logp: Array, advantages: Array, mask: Array, cap: float) -> Term:
    """``sg[min(r, cap)] A log p``: the weight is capped, and no token loses its gradient (MiniMax-M1, 2506.13585).

    The cap is the greatest ratio itself, not 1 + epsilon.

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      advantages: [..., C] or [..., 1].
      mask: [..., C], true at real tokens.
      cap: greatest weight.

    Returns:
      A `Term`.
    """
    ratio = policy.importance_ratio(logp, old_logp, mask)
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, cap))
    return Term(weight * advantages * logp, ratio, {"cispo_clip_ratio": (ratio > cap) & (advantages > 0)})


def sapo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    mask: Array,
    temperature_positive: float,
    temperature_negative: float,
) -> Term:
    """``A (4 / tau) sigmoid(tau (r - 1))``: a soft gate in place of the clip (SAPO, arXiv:2511.20347).

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      advantages: [..., C] or [..., 1].
      mask: [..., C], true at real tokens.
      temperature_positive: tau of tokens with A > 0.
      temperature_negative: tau of the others.

    Returns:
      A `Term`.
    """
    ratio = policy.importance_ratio(logp, old_logp, mask)
    tau = jnp.where(advantages > 0, temperature_positive, temperature_negative)
    return Term(advantages * jax.nn.sigmoid(tau * (ratio - 1.0)) * 4.0 / tau, ratio, {})


def vespo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    mask: Array,
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> Term:
    """``sg[phi(w)] A log p``, ``phi(w) = e^lambda w^k e^(-lambda w)``, ``w`` the ratio of the whole sequence (VESPO).

    phi(1) = 1; a sequence far from the policy that drew it counts less.  As in TRL, each token's log ratio is limited
    to +-20, the sum to [ln 1e-8, 20].

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      advantages: [..., C] or [..., 1].
      mask: [..., C], true at real tokens.
      positive: (k, lambda) where A >= 0.
      negative: (k, lambda) elsewhere.

    Returns:
      A `Term`.
    """
    total = masked_sum(jnp.clip(logp - old_logp, -20.0, 20.0), mask, axis=-1)[..., None]
    log_w = jnp.clip(total, math.log(1e-8), 20.0)
    k, rate = (jnp.where(advantages >= 0, a, b) for a, b in zip(positive, negative))
    phi = jax.lax.stop_gradient(jnp.exp(rate + k * log_w - rate * jnp.exp(log_w)))
    ratio = policy.importance_ratio(logp, old_logp, mask)
    return Term(phi * advantages * logp, ratio, {"vespo/phi_seq_mean": phi})
