"""Which tokens and sequences teach: high entropy, still on policy, not cut off."""

import jax
import jax.numpy as jnp

from lqlm.masked import masked_mean
from lqlm.types import Array


def high_entropy_tokens(entropy: Array, mask: Array, share: float) -> Array:
    """The tokens of highest entropy, ``H_t >= quantile_{1 - share}(H)``, the quantile over all real tokens given.

    Beyond the 80/20 rule (arXiv:2506.01939); TRL's ``top_entropy_quantile``.  The quantile is interpolated linearly.

    Args:
      entropy: [..., C] of each token's distribution.
      mask: [..., C], true at real tokens.
      share: of the tokens that are kept, above 0; 1 keeps all.

    Returns:
      bool [..., C]; false outside the mask.

    >>> print(high_entropy_tokens(jnp.array([0.1, 0.9, 0.5, 9.0]), jnp.array([True, True, True, False]), 0.5))
    [False  True  True False]
    """
    mask = mask.astype(bool)
    ordered = jnp.sort(jnp.where(mask, entropy, jnp.inf).reshape(-1))
    last = jnp.maximum(jnp.sum(mask) - 1, 0)
    place = (1.0 - share) * last.astype(jnp.float32)
    below = jnp.floor(place).astype(jnp.int32)
    low, high = ordered[below], ordered[jnp.minimum(below + 1, last)]
    return (entropy >= low + (place - below.astype(jnp.float32)) * (high - low)) & mask


def on_policy_sequences(advantages: Array, logp: Array, old_logp: Array, mask: Array, threshold: float) -> Array:
    """Sequences that still teach: all with ``A >= 0``, and those with ``mean_t (old_logp - logp) <= threshold``.

    A bad sequence that the policy has moved far away from is left out (DeepSeek-V3.2, arXiv:2512.02556; TRL's
    ``off_policy_mask_threshold``).

    Args:
      advantages: [..., C] or [..., 1].
      logp: [..., C] under the policy; without a gradient.
      old_logp: [..., C] under the policy that drew the tokens; a NaN is taken for no evidence.
      mask: [..., C], true at real tokens.
      threshold: nats per token.

    Returns:
      bool, the shape of advantages.
    """
    moved = jnp.nan_to_num(old_logp - jax.lax.stop_gradient(logp), nan=0.0)
    return (advantages >= 0) | (masked_mean(moved, mask, axis=-1)[..., None] <= threshold)


def without_truncated(mask: Array, ended: Array) -> Array:
    """The mask without completions that were cut off at the token limit (the overlong filter of DAPO, 2503.14476).

    Their rewards still count in the group; their tokens neither teach nor count in any mean.

    Args:
      mask: [..., C], true at real tokens.
      ended: bool [...], whether the completion came to its end.

    Returns:
      bool [..., C].
    """
    return mask.astype(bool) & ended[..., None]
