"""Advantages of the samples of one prompt, measured against each other.

Rewards become float32 before anything else: an integer mean would turn 0.5 into 0.
"""

import jax.numpy as jnp

from lqlm.types import Array


def group_advantages(rewards_BG: Array, *, eps: float = 1e-4) -> Array:
    """Z-score of each reward within its group, ``(r_i - mean r) / (std r + eps)``, with Bessel's std (ddof 1).

    DeepSeekMath (arXiv:2402.03300), outcome supervision.  A group of equal rewards, or of one sample, teaches nothing:
    its advantages are exactly 0.  A NaN reward makes its group NaN; decide what a failed reward is worth before.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      eps: added to the standard deviation.

    Returns:
      float32 [..., G].

    >>> print(group_advantages(jnp.array([[1, 1, 1, 1, 0, 0, 0, 0]]), eps=0.0)[0, ::4].round(2))
    [ 0.94 -0.94]
    """
    centered = centered_advantages(rewards_BG)
    degrees = max(rewards_BG.shape[-1] - 1, 1)
    std = jnp.sqrt(jnp.sum(jnp.square(centered), axis=-1, keepdims=True) / degrees)
    return jnp.where(std == 0, 0.0, centered / (std + eps))  # 0 / (0 + eps) would do, but for eps = 0


def centered_advantages(rewards_BG: Array) -> Array:
    """Reward minus the mean of its group, ``r_i - mean r``: no scaling by the spread.

    Dr. GRPO (arXiv:2503.20783): dividing by the standard deviation favours prompts that are nearly solved or hopeless.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.

    Returns:
      float32 [..., G]; exactly 0 where all rewards of the group are equal.

    >>> print(centered_advantages(jnp.array([[1, 0, 0, 0]])))
    [[ 0.75 -0.25 -0.25 -0.25]]
    """
    rewards = rewards_BG.astype(jnp.float32)
    centered = rewards - jnp.mean(rewards, axis=-1, keepdims=True)
    # The mean of equal numbers may be one rounding away from them, which a small std would blow up to an advantage.
    return jnp.where(_all_equal(rewards)[..., None], 0.0, centered)


def zero_variance_share(rewards_BG: Array) -> Array:
    """Share of groups whose rewards are all equal, and which therefore give no gradient.

    With a success rate p it is ``p^G + (1 - p)^G`` on average.

    Args:
      rewards_BG: [B, G] rewards, any numeric type.

    Returns:
      float32 [], between 0 and 1.

    >>> print(zero_variance_share(jnp.array([[1, 1], [0, 1]])))
    0.5
    """
    return jnp.mean(_all_equal(rewards_BG).astype(jnp.float32))


def _all_equal(rewards_BG: Array) -> Array:
    return jnp.all(rewards_BG == rewards_BG[..., :1], axis=-1)
