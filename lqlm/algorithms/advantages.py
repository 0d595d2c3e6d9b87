"""Advantages of the samples of one prompt, measured against each other.

Rewards become float32 before anything else: an integer mean would turn 0.5 into 0.
"""

import jax
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
    return jnp.where(all_equal(rewards)[..., None], 0.0, centered)


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
    return jnp.mean(all_equal(rewards_BG).astype(jnp.float32))


def all_equal(rewards_BG: Array) -> Array:
    """Groups whose rewards are all equal: bool [...], of rewards [..., G]; a NaN is equal to nothing."""
    return jnp.all(rewards_BG == rewards_BG[..., :1], axis=-1)


def batch_advantages(rewards_BG: Array, *, eps: float = 1e-4) -> Array:
    """Reward minus the mean of its group, over the spread of the whole batch: ``(r_i - mean r) / (std_BG r + eps)``.

    TRL's ``scale_rewards="batch"`` (Lite PPO, arXiv:2508.08221); the standard deviation is Bessel's.  A group of equal
    rewards, or of one sample, gets exactly 0; a NaN makes the whole batch NaN.

    Args:
      rewards_BG: [B, G] rewards, any numeric type.
      eps: added to the standard deviation.

    Returns:
      float32 [B, G].
    """
    centered = centered_advantages(rewards_BG)
    return jnp.where(centered == 0, centered, centered / (_std(rewards_BG.astype(jnp.float32)) + eps))


def leave_one_out_advantages(rewards_BG: Array) -> Array:
    """Reward minus the mean of the others of its group, ``r_i - mean_{j != i} r_j`` (RLOO, arXiv:2402.14740).

    It is the centred advantage times ``G / (G - 1)``: an unbiased baseline.  Equal rewards, or one sample, give exactly
    0; a NaN makes its group NaN.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.

    Returns:
      float32 [..., G].

    >>> print(leave_one_out_advantages(jnp.array([[1, 0, 0, 0]])).round(3))
    [[ 1.    -0.333 -0.333 -0.333]]
    """
    group = rewards_BG.shape[-1]
    return centered_advantages(rewards_BG) * (group / max(group - 1, 1))


def decoupled_advantages(rewards_KBG: Array, weights_K: Array, *, eps: float = 1e-4) -> Array:
    """Each component of the reward normalised in its group, then summed, then normalised over the batch.

    GDPO (arXiv:2601.05242), TRL's ``normalize_then_sum``: ``S = sum_k w_k z(r_k)``, ``A = (S - mean S) / (std S +
    eps)``.  Sums of different components that happen to be equal stay apart.  A component that is equal in its group
    adds nothing there; a NaN makes the whole batch NaN.

    Args:
      rewards_KBG: [K, B, G] components, any numeric type.
      weights_K: [K] of the components.
      eps: added to both standard deviations.

    Returns:
      float32 [B, G].
    """
    scores = jnp.einsum("k,kbg->bg", weights_K.astype(jnp.float32), group_advantages(rewards_KBG, eps=eps))
    return (scores - jnp.mean(scores)) / (_std(scores) + eps)


def beta_normalised_advantages(rewards_BG: Array, *, low: float = 0.0, high: float = 1.0, most: float = 1e6) -> Array:
    """Reward minus the mean of its group, over a Beta density at that mean: ``(r - p) / f(p; alpha, beta)``.

    BNPO (arXiv:2506.02864).  A Beta distribution with parameters a, b is fitted to the success rates p of the batch's
    prompts by the method of moments, ``a = (m (1 - m) / v - 1) m`` and ``b`` with ``1 - m`` at the end, m their mean
    and v Bessel's variance; ``alpha = max(1 + a / 3, 1)``, ``beta = max(1 + b / 3, 1)`` make the gradient's variance
    least.  ``alpha = beta = 1`` is REINFORCE with a baseline, ``3 / 2`` is GRPO up to a constant.  One prompt, or equal
    rates of all, leave nothing to fit: 1 and 1.  A group of equal rewards gets exactly 0; a NaN makes the batch NaN.

    Not to be confused with what TRL calls "bnpo", a mean over the tokens of a micro-batch
    (`lqlm.algorithms.policy.reduce_loss`).

    Args:
      rewards_BG: [B, G] rewards, any numeric type, from `low` to `high`; p counts them from 0 to 1.
      low: the least reward there is.
      high: the largest one.
      most: bound of ``1 / f``.

    Returns:
      float32 [B, G].

    >>> print((1000 * beta_normalised_advantages(jnp.array([[1, 0, 0, 0], [1, 1, 1, 0]]))).astype(int))
    [[ 716 -238 -238 -238]
     [ 238  238  238 -716]]
    """
    scaled = (rewards_BG.astype(jnp.float32) - low) / (high - low)
    rates = jnp.mean(scaled, axis=-1)
    alpha, beta = _beta_parameters(rates)
    density = jnp.exp(jax.scipy.stats.beta.logpdf(rates, alpha, beta))
    return centered_advantages(scaled) * jnp.minimum(1.0 / density, most)[:, None]


def _beta_parameters(rates_B: Array) -> tuple[Array, Array]:
    mean = jnp.mean(rates_B)
    variance = jnp.square(_std(rates_B))
    fits = variance > 0
    total = jnp.where(fits, mean * (1 - mean) / jnp.where(fits, variance, 1.0) - 1, 0.0)  # a + b
    return jnp.maximum(1 + total * mean / 3, 1.0), jnp.maximum(1 + total * (1 - mean) / 3, 1.0)


def process_advantages(rewards_BGC: Array, ends_BGC: Array, mask_BGC: Array, *, eps: float = 1e-4) -> Array:
    """Process supervision: each token gets the sum of the normalised rewards of the steps that end at it or later.

    DeepSeekMath (arXiv:2402.03300), section 4.1.3: all step rewards of a group are normalised together, ``r~ = (r -
    mean) / (std + eps)``, and ``A_t = sum_{j: end_j >= t} r~_j``.  Equal step rewards, or a single one, give exactly 0;
    tokens after the last step too.  A NaN at a step's end makes its group NaN.

    Args:
      rewards_BGC: [..., G, C] rewards of steps at their last tokens; what stands elsewhere is not looked at.
      ends_BGC: bool [..., G, C], true at the last token of each step.
      mask_BGC: bool [..., G, C], true at real tokens.
      eps: added to the standard deviation.

    Returns:
      float32 [..., G, C], 0 outside the mask.

    >>> rewards, ends = jnp.array([[[0, 1, 0, 1], [0, 1, 0, 0]]]), jnp.array([[[False, True, False, True]] * 2])
    >>> print(process_advantages(rewards, ends, jnp.ones_like(ends), eps=0.0))
    [[[ 1.   1.   0.5  0.5]
      [-1.  -1.  -1.5 -1.5]]]
    """
    ends = ends_BGC & mask_BGC
    rewards = jnp.where(ends, rewards_BGC.astype(jnp.float32), 0.0)
    axes = (-2, -1)
    count = jnp.sum(ends.astype(jnp.float32), axis=axes, keepdims=True)
    mean = jnp.sum(rewards, axis=axes, keepdims=True) / jnp.maximum(count, 1.0)
    first = jnp.max(jnp.where(ends, rewards, -jnp.inf), axis=axes, keepdims=True)
    equal = jnp.all(jnp.where(ends, rewards == first, True), axis=axes, keepdims=True)
    deviation = jnp.where(ends & ~equal, rewards - mean, 0.0)
    std = jnp.sqrt(jnp.sum(jnp.square(deviation), axis=axes, keepdims=True) / jnp.maximum(count - 1.0, 1.0))
    normalised = jnp.where(equal, 0.0, deviation / (std + eps))
    later = jnp.flip(jnp.cumsum(jnp.flip(normalised, -1), axis=-1), -1)
    return jnp.where(mask_BGC, later, 0.0)


def _std(values: Array) -> Array:
    """Bessel's standard deviation of everything; 0 of a single value."""
    return jnp.std(values, ddof=1) if values.size > 1 else jnp.zeros((), jnp.float32)
