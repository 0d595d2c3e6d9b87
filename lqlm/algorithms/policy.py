"""The parts of a clipped policy loss: ratio, surrogate, divergence, and the weight of each token.

A loss is ``sum_t w_t l_t``.  The weights carry the whole reduction (a mean over tokens, over sequences, by a constant),
so they are computed once for the full batch, and the gradients of its micro-batches simply add up.
"""

from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp

from lqlm import logprobs
from lqlm.errors import UserError
from lqlm.types import Array

Reduction = Literal["sequence", "token", "constant"]


def token_weights(mask: Array, reduction: Reduction, *, max_length: int | None = None) -> Array:
    """Weight of each token in the loss ``sum_t w_t l_t``; N sequences, n_i real tokens in sequence i.

    - ``sequence``: ``1 / (N n_i)``, the mean over sequences of their token means (DeepSeekMath, arXiv:2402.03300);
    - ``token``: ``1 / sum_i n_i``, the mean over all tokens (DAPO, arXiv:2503.14476);
    - ``constant``: ``1 / (N max_length)``, which does not favour short wrong answers (Dr. GRPO, arXiv:2503.20783).

    Args:
      mask: [..., C], true at real completion tokens; every leading axis counts sequences.
      reduction: one of the three.
      max_length: for ``constant`` only: the greatest length that a completion may have.

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
    if reduction == "constant" and max_length is not None:
        return real / (sequences * max_length)
    raise UserError(
        f"token_weights: reduction {reduction!r} with max_length {max_length}: "
        "use 'sequence', 'token', or 'constant' with a max_length"
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
