"""The parts of a clipped policy loss: ratio, surrogate, divergence, and the weight of each token.

A loss is ``sum_t w_t l_t``.  The weights carry the whole reduction (a mean over tokens, over sequences, by a constant),
so they are computed once for the full batch, and the gradients of its micro-batches simply add up.
"""

from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp

from lqlm import logprobs
from lqlm.errors import UserError
from lqlm.types import Array

Reduction = Literal["sequence", "token", "constant", "micro_batch", "sequence_sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
Estimator = Literal["k1", "k2", "k3", "k3_corrected"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def token_weights(mask: Array, reduction: Reduction, *, max_length: int | None = None, parts: int = 1) -> Array:
    """Weight of each token in the loss ``sum_t w_t l_t``; N sequences, n_i real tokens in sequence i.

    - ``sequence``: ``1 / (N n_i)``, the mean over sequences of their token means (DeepSeekMath, arXiv:2402.03300);
    - ``token``: ``1 / sum_i n_i``, the mean over all tokens (DAPO, arXiv:2503.14476);
    - ``constant``: ``1 / (N max_length)``, which does not favour short wrong answers (Dr. GRPO, arXiv:2503.20783);
    - ``micro_batch``: ``1 / (parts sum_i n_i)``, the sum over the sequences of the same micro-batch: the mean of their
      token means (what TRL calls BNPO), which depends on how the batch is split;
    - ``sequence_sum``: ``1 / N``, the mean over sequences of their token sums (LUSPO in TRL).

    Args:
      mask: [..., C], true at real completion tokens; every leading axis counts sequences.
      reduction: one of the five.
      max_length: for ``constant`` only: the greatest length that a completion may have.
      parts: for ``micro_batch`` only: the micro-batches that the first axis is split into.

    Returns:
      float32 [..., C]; 0 outside the mask, and in a sequence without real tokens.

    >>> print(token_weights(jnp.array([[True, True], [True, False]]), "sequence"))
    [[0.25 0.25]
     [0.5  0.  ]]
    """
    real = mask.astype(jnp.float32)
    sequences = mask.size // mask.shape[-1]
    if reduction == "sequence":
        return real / (sequences * jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1.0))
    if reduction == "token":
        return real / jnp.maximum(jnp.sum(real), 1.0)
    if reduction == "sequence_sum":
        return real / sequences
    if reduction == "micro_batch":
        split = real.reshape(parts, -1)
        return (split / (parts * jnp.maximum(jnp.sum(split, axis=-1, keepdims=True), 1.0))).reshape(mask.shape)
    if reduction == "constant" and max_length is not None:
        return real / (sequences * max_length)
    raise UserError(
        f"token_weights: reduction {reduction!r} with max_length {max_length}: "
        f"use one of {', '.join(REDUCTIONS)}, and 'constant' with a max_length"
    )


def importance_ratio(logp: Array, old_logp: Array, mask: Array) -> Array:
    """Ratio of the policy to the one that drew the tokens, ``exp(logp - old_logp)``; 1 outside the mask.

    Args:
      logp: [..., C] under the policy.
      old_logp: [..., C] under the policy at the time of the rollout.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [..., C].
    """
    chex.assert_equal_shape([logp, old_logp, mask])
    # Masked before exp: whatever stands in the padding can neither overflow nor send back a NaN.
    return jnp.exp(jnp.where(mask, logp - old_logp, 0.0))


def clipped_surrogate(ratio: Array, advantages: Array, epsilon_low: float, epsilon_high: float) -> Array:
    """Pessimistic objective per token, ``min(r A, clip(r, 1 - low, 1 + high) A)``, to be maximised.

    PPO (arXiv:1707.06347, equation 7).  The minimum is right for either sign: with A > 0 it ends the gain at
    1 + high, with A < 0 at 1 - low, and it never clips a ratio that has moved the wrong way.

    Args:
      ratio: [..., C].
      advantages: [..., C] or [..., 1].
      epsilon_low: greatest fall of the ratio that is rewarded.
      epsilon_high: greatest rise of the ratio that is rewarded.

    Returns:
      [..., C].

    >>> print(clipped_surrogate(jnp.array([2.0, 2.0, 0.5]), jnp.array([1.0, -1.0, -1.0]), 0.2, 0.3))
    [ 1.3 -2.  -0.8]
    """
    clipped = jnp.clip(ratio, 1.0 - epsilon_low, 1.0 + epsilon_high)
    return jnp.minimum(ratio * advantages, clipped * advantages)


class Clipped(NamedTuple):
    """Tokens whose surrogate is clipped and sends back no gradient; bool [..., C]."""

    low: Array  # a negative advantage has already lowered the ratio below 1 - epsilon_low
    high: Array  # a positive advantage has already raised it above 1 + epsilon_high


def clipped_tokens(ratio: Array, advantages: Array, epsilon_low: float, epsilon_high: float) -> Clipped:
    """Find the tokens that `clipped_surrogate` clips.

    Args:
      ratio: [..., C].
      advantages: [..., C] or [..., 1].
      epsilon_low: as in `clipped_surrogate`.
      epsilon_high: as in `clipped_surrogate`.

    Returns:
      `Clipped`, two of bool [..., C].
    """
    low = (ratio < 1.0 - epsilon_low) & (advantages < 0)
    return Clipped(low, (ratio > 1.0 + epsilon_high) & (advantages > 0))


def k3_corrected(logp: Array, ref_logp: Array, ratio: Array) -> Array:
    """The k3 estimate weighted by the importance ratio, ``r (q/p - log(q/p) - 1)``, with a gradient through both.

    The tokens were drawn from the old policy; the ratio makes the estimate one under the current policy, and its
    gradient the gradient of the divergence (TRL's ``use_bias_correction_kl``, its default from 1.16).

    Args:
      logp: [..., C] under the policy.
      ref_logp: [..., C] under the reference.
      ratio: [..., C] of `importance_ratio`.

    Returns:
      [..., C], never negative.
    """
    return ratio * logprobs.k3(logp, ref_logp)


def divergence(logp: Array, ref_logp: Array, ratio: Array, estimator: Estimator) -> Array:
    """Estimate per token of the divergence from the reference, by the named estimator.

    In a loss, k1 has a gradient of mean zero and k2 one that is right to first order; that of k3 is the gradient of
    another divergence, which k3_corrected mends.  In a reward only the value counts, and k1 is the unbiased one.

    Args:
      logp: [..., C] under the policy.
      ref_logp: [..., C] under the reference.
      ratio: [..., C] or [..., 1] of the policy to the one that drew the tokens; only k3_corrected looks at it.
      estimator: one of the four.

    Returns:
      [..., C].
    """
    if estimator == "k3_corrected":
        return k3_corrected(logp, ref_logp, ratio)
    return {"k1": logprobs.k1, "k2": logprobs.k2, "k3": logprobs.k3}[estimator](logp, ref_logp)


def penalized_rewards(
    rewards: Array, old_logp: Array, ref_logp: Array, mask: Array, beta: float, estimator: Estimator = "k1"
) -> Array:
    """Rewards minus the divergence of the whole sequence, ``r - beta sum_t kl_t``: the divergence in the reward.

    As in TRL's RLOO (with k1, the log ratio) and in PPO for language models; the advantages are computed from these.

    Args:
      rewards: [...], one for each sequence, any numeric type.
      old_logp: [..., C] under the policy that drew the tokens.
      ref_logp: [..., C] under the reference.
      mask: [..., C], true at real tokens.
      beta: weight of the divergence.
      estimator: k1, k2 or k3; there is no ratio to correct k3 with.

    Returns:
      float32 [...], without a gradient.
    """
    chex.assert_equal_shape([old_logp, ref_logp, mask])
    chex.assert_shape(rewards, mask.shape[:-1])
    mask = mask.astype(bool)
    old_logp, ref_logp = jnp.where(mask, old_logp, 0.0), jnp.where(mask, ref_logp, 0.0)
    kl = divergence(old_logp, ref_logp, jnp.ones_like(old_logp), estimator)
    return jax.lax.stop_gradient(rewards.astype(jnp.float32) - beta * jnp.sum(kl, axis=-1))
