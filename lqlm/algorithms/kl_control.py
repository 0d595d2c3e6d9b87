"""Rewards per token: the divergence from the reference and a score at the end; and what keeps the divergence in check.

The coefficient of the divergence is the whole state of a controller: an array, and a new one for each rollout.
"""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from lqlm import logprobs
from lqlm.errors import UserError
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class KLConfig:
    """How the divergence from the reference enters the reward."""

    coefficient: float = 0.05  # beta, at the beginning; TRL 1.12 and arXiv:2403.17031 (InstructGPT: 0.02)
    estimator: Literal["k1", "k3"] = "k1"
    target: float | None = None  # nats per completion that an adaptive coefficient aims at; None: it stays fixed
    gain: float = 0.1  # share by which an error of 1 would change the coefficient
    limit: float = 0.2  # greatest relative error that counts

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if self.coefficient < 0:
            raise UserError(f"KLConfig: coefficient {self.coefficient} rewards divergence: take 0 or more")
        if self.estimator not in ("k1", "k3"):
            raise UserError(f"KLConfig: unknown estimator {self.estimator!r}: use 'k1' or 'k3'")
        if self.target is not None and not (self.target > 0 and self.coefficient > 0):
            raise UserError(
                f"KLConfig: target {self.target} with coefficient {self.coefficient}: both must be above 0, or target "
                "None for a fixed coefficient"
            )
        if self.gain <= 0 or self.limit <= 0 or self.gain * self.limit >= 1:
            raise UserError(f"KLConfig: gain {self.gain}, limit {self.limit}: take both above 0, and a product below 1")


def token_kl(logp: Array, ref_logp: Array, mask: Array, estimator: Literal["k1", "k3"]) -> Array:
    """Estimate of the divergence from the reference at each drawn token.

    Args:
      logp: [..., C] under the policy that drew them.
      ref_logp: [..., C] under the reference.
      mask: [..., C], true at real tokens.
      estimator: of `lqlm.logprobs`.

    Returns:
      float32 [..., C], 0 outside the mask.
    """
    chex.assert_equal_shape([logp, ref_logp, mask])
    logp, ref_logp = (jnp.where(mask.astype(bool), x.astype(jnp.float32), 0.0) for x in (logp, ref_logp))
    return {"k1": logprobs.k1, "k3": logprobs.k3}[estimator](logp, ref_logp)


def rewards_from_scores(scores: Array, kl: Array, coefficient: float | Array, mask: Array) -> Array:
    """Rewards of each step, ``r_t = -beta KL_t``, and the completion's score one step after its last token.

    The place is that of TRL's PPOTrainer (1.12): the state after the end is one of the episode, where there is room for
    it; a completion that fills all C has its score at the last token.  The values that belong to it are selected by
    `states_mask`.

    Args:
      scores: [...] of whole completions, any numeric type.
      kl: [..., C] of `token_kl`.
      coefficient: beta.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [..., C].

    >>> print(rewards_from_scores(jnp.array([2]), jnp.zeros((1, 3)), 0.1, jnp.array([[True, True, False]])))
    [[0. 0. 2.]]
    """
    after = jnp.minimum(_length(mask), mask.shape[-1] - 1)
    return _rewards(scores, kl, coefficient, mask, after)


def rewards_at_last_token(scores: Array, kl: Array, coefficient: float | Array, mask: Array) -> Array:
    """`rewards_from_scores` with the score at the last real token: with it the episode ends.

    Args:
      scores: [...] of whole completions, any numeric type.
      kl: [..., C] of `token_kl`.
      coefficient: beta.
      mask: [..., C], true at real tokens; of a completion without any, the score stands at its first place.

    Returns:
      float32 [..., C].

    >>> print(rewards_at_last_token(jnp.array(2), jnp.zeros(3), 0.1, jnp.array([True, True, False])))
    [0. 2. 0.]
    """
    return _rewards(scores, kl, coefficient, mask, jnp.maximum(_length(mask) - 1, 0))


def states_mask(mask: Array) -> Array:
    """The states of `rewards_from_scores`: those before each real token, and the one after the last if it fits.

    Args:
      mask: [..., C], true at real tokens.

    Returns:
      bool [..., C].

    >>> print(states_mask(jnp.array([[True, False, False], [True, True, True]])))
    [[ True  True False]
     [ True  True  True]]
    """
    return _places(mask) <= _length(mask)[..., None]


def _length(mask: Array) -> Array:
    """Place after the last real token; 0 where there is none."""
    return jnp.max(jnp.where(mask.astype(bool), _places(mask) + 1, 0), axis=-1)


def _places(mask: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)


def _rewards(scores: Array, kl: Array, coefficient: float | Array, mask: Array, place: Array) -> Array:
    chex.assert_equal_shape([kl, mask])
    chex.assert_shape(scores, mask.shape[:-1])
    here = _places(mask) == place[..., None]
    penalty = jnp.where(mask.astype(bool), coefficient * kl, 0.0)
    return jnp.where(here, scores.astype(jnp.float32)[..., None], 0.0) - penalty


def less_without_end(scores: Array, ended: Array, penalty: float) -> Array:
    """Scores less a penalty where a completion has not come to its end (TRL's ``missing_eos_penalty``).

    Args:
      scores: [...], any numeric type.
      ended: bool [...], whether the completion has an end-of-sequence token.
      penalty: 0 or more.

    Returns:
      float32 [...].

    >>> print(less_without_end(jnp.array([1, 1]), jnp.array([True, False]), 0.5))
    [1.  0.5]
    """
    return scores.astype(jnp.float32) - jnp.where(ended, 0.0, penalty)


def score_without_end(scores: Array, ended: Array, score: float = -1.0) -> Array:
    """Scores, but a fixed one where a completion has not come to its end: the "EOS trick" (arXiv:2403.17031).

    Args:
      scores: [...], any numeric type.
      ended: bool [...], whether the completion has an end-of-sequence token.
      score: of a completion without an end.

    Returns:
      float32 [...].
    """
    return jnp.where(ended, scores.astype(jnp.float32), score)


def next_coefficient(coefficient: Array, kl: Array, cfg: KLConfig) -> Array:
    """The coefficient of the next rollout: ``beta (1 + gain clip((KL - target) / target, -limit, limit))``.

    Ziegler et al. 2019 (arXiv:1909.08593).  A fixed one stays, and so does any where the divergence is no
    finite number: its update is skipped, and must not be remembered for ever.

    Args:
      coefficient: beta, float32 [].
      kl: mean divergence of the rollout's completions, in nats per completion.
      cfg: target, gain and limit.

    Returns:
      float32 [].

    >>> print(next_coefficient(jnp.float32(0.1), jnp.float32(9.0), KLConfig(target=6.0)).round(4))
    0.102
    """
    if cfg.target is None:
        return coefficient
    error = jnp.clip((kl - cfg.target) / cfg.target, -cfg.limit, cfg.limit)
    return jnp.where(jnp.isfinite(kl), coefficient * (1.0 + cfg.gain * error), coefficient)


def next_penalty(penalty: Array, kl: Array, target: float) -> Array:
    """The coefficient of the unclipped loss' divergence: halved below ``target / 1.5``, doubled above ``1.5 target``.

    PPO (arXiv:1707.06347), section 4.

    Args:
      penalty: beta, float32 [].
      kl: mean divergence per token of the new policy from the one that drew the rollout.
      target: d_targ, in nats per token.

    Returns:
      float32 [].

    >>> print([float(next_penalty(jnp.float32(1.0), jnp.float32(kl), 0.3)) for kl in (0.1, 0.3, 0.5)])
    [0.5, 1.0, 2.0]
    """
    factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
    return penalty * factor
