"""Advantages for groups that are all poor, or all equal: a z-score is silent there, or praises the least bad.

Each remedy is a function of rewards, and of what it is told beside them, that returns advantages for
`lqlm.algorithms.grpo`.  Common to all: rewards become float32, a NaN reward makes the advantages of its group NaN, and
what happens with equal rewards and with one sample (G = 1) is stated with each.  With a success rate p a group is all
equal with probability ``p^G + (1 - p)^G``: 0.89 at p = 0.014 and G = 8.
"""

import jax.numpy as jnp

from lqlm.algorithms.advantages import all_equal, group_advantages
from lqlm.types import Array


def mixed_advantages(
    rewards_BG: Array, anchor: Array | float, *, weight: float = 0.5, scale: float = 1.0, eps: float = 1e-4
) -> Array:
    """``lambda z(r) + (1 - lambda) (r - anchor) / scale``: relative and absolute.

    The absolute term is signed, and its anchor comes from outside the group: a reward that counts as neither good nor
    bad, or `running_anchor`.  Scaled to [0, 1] instead it would praise poor samples; anchored at the group's own mean
    it would vanish where all are equal.  Equal rewards, and G = 1, get ``(1 - lambda) (r - anchor) / scale``: negative
    below the anchor.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      anchor: [] reward that is worth 0.
      weight: lambda, of the z-score, from 0 to 1.
      scale: reward above the anchor that is worth 1.
      eps: of the z-score.

    Returns:
      float32 [..., G].

    >>> print(mixed_advantages(jnp.zeros((1, 2)), 0.5))
    [[-0.25 -0.25]]
    """
    absolute = (rewards_BG.astype(jnp.float32) - jnp.asarray(anchor, jnp.float32)) / scale
    return weight * group_advantages(rewards_BG, eps=eps) + (1.0 - weight) * absolute


def running_anchor(anchor: Array | float, rewards_BG: Array, *, decay: float = 0.9) -> Array:
    """The next anchor, ``decay anchor + (1 - decay) mean(r)``: use the one before for the batch that made it.

    Args:
      anchor: [] of the steps before.
      rewards_BG: rewards of this step, any shape and numeric type.
      decay: how much of the old one stays.

    Returns:
      float32 [].
    """
    mean = jnp.mean(rewards_BG.astype(jnp.float32))
    return decay * jnp.asarray(anchor, jnp.float32) + (1.0 - decay) * mean


def anchored_advantages(rewards_BG: Array, anchors_BK: Array, *, eps: float = 1e-4) -> Array:
    """Z-scores in the group and its reference anchors together, of the samples alone.

    ``(r_i - m) / (s + eps)``, with mean and Bessel's standard deviation of the G samples and the K anchors, such as the
    reward of one solution known to be good.  The anchors give no gradient: they were not drawn from the policy.
    All G + K equal gives exactly 0; G samples equal below a better anchor, and G = 1 too, are negative.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      anchors_BK: [..., K] rewards of the anchors.
      eps: added to the standard deviation.

    Returns:
      float32 [..., G].
    """
    both = jnp.concatenate([rewards_BG.astype(jnp.float32), anchors_BK.astype(jnp.float32)], axis=-1)
    return group_advantages(both, eps=eps)[..., : rewards_BG.shape[-1]]


def ngrpo_advantages(rewards_BG: Array, *, best: float = 1.0, eps: float = 1e-4) -> Array:
    """Z-scores in the group and one virtual sample of the best reward: mean and std (ddof 0) of G + 1 rewards.

    NGRPO (arXiv:2509.18851).  An all-zero group gets ``-1/sqrt(G)`` for each (but for eps); a group that is all best
    gets exactly 0.  G = 1 compares the sample with the virtual one: -1 if it is worse.  The paper adds a narrower clip
    for negative advantages, which is ``epsilon_low < epsilon_high`` here.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      best: greatest reward there is.
      eps: added to the standard deviation.

    Returns:
      float32 [..., G].

    >>> print(ngrpo_advantages(jnp.zeros((1, 4)), eps=0.0))
    [[-0.5 -0.5 -0.5 -0.5]]
    """
    rewards = rewards_BG.astype(jnp.float32)
    both = jnp.concatenate([rewards, jnp.full_like(rewards[..., :1], best)], axis=-1)
    equal = all_equal(both)[..., None]
    std = jnp.std(both, axis=-1, keepdims=True)
    centered = rewards - jnp.mean(both, axis=-1, keepdims=True)
    return jnp.where(equal, 0.0, centered / jnp.where(equal, 1.0, std + eps))


def avspo_advantages(
    rewards_BG: Array, *, best: float = 1.0, worst: float = 0.0, virtual: Array | float = 1.0, eps: float = 1e-4
) -> Array:
    """Z-scores; a group of equal rewards is compared with virtual samples at the other end of the scale.

    After AVSPO (arXiv:2605.21125): virtual rewards enter the statistics of collapsed groups only, and no gradient.
    With G equal rewards and K virtual ones (ddof 0) the z-score is ``-sqrt(K/G)`` where the group is nearer to the
    worst reward and ``+sqrt(K/G)`` where it is nearer to the best; other groups are as in `group_advantages`.  G = 1 is
    always collapsed: +-sqrt(K).  How K follows the collapse rate is `virtual_samples`.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      best: greatest reward there is.
      worst: least reward there is.
      virtual: [] K, of each collapsed group; 0 leaves plain z-scores.
      eps: of the z-score of the other groups.

    Returns:
      float32 [..., G].
    """
    rewards = rewards_BG.astype(jnp.float32)
    sign = jnp.where(rewards < (best + worst) / 2, -1.0, 1.0)
    size = jnp.sqrt(jnp.asarray(virtual, jnp.float32) / rewards.shape[-1])
    return jnp.where(all_equal(rewards)[..., None], sign * size, group_advantages(rewards, eps=eps))


def virtual_samples(collapse_rate: Array | float, group: int) -> Array:
    """K of `avspo_advantages`, ``max(1, G c)`` for a share c of collapsed groups: the more collapse, the stronger.

    A rule of this library: linear in the rate between one virtual sample and as many as there are real ones.

    Args:
      collapse_rate: [] between 0 and 1, such as `lqlm.algorithms.advantages.zero_variance_share`.
      group: G.

    Returns:
      float32 [].
    """
    return jnp.maximum(1.0, group * jnp.asarray(collapse_rate, jnp.float32))


def mapo_advantages(rewards_BG: Array, *, right: float = 1.0, eps: float = 1e-4) -> Array:
    """``(1 - l) (r - m) / s + l (r - m) / m``, ``l = 1 - 4 p (1 - p)``, p the share of right samples.

    MAPO (arXiv:2509.18849): near p = 1/2 the z-score, for certain groups the percent deviation.  Equal rewards, and
    G = 1, give exactly 0: this remedy weighs the groups that are nearly all equal, and leaves those that are.  Where m
    is not positive a percentage has no meaning, and the z-score stands alone.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      right: a sample with this reward or more is right.
      eps: added to the standard deviation.

    Returns:
      float32 [..., G].
    """
    rewards = rewards_BG.astype(jnp.float32)
    p = jnp.mean((rewards >= right).astype(jnp.float32), axis=-1, keepdims=True)
    mean = jnp.mean(rewards, axis=-1, keepdims=True)
    certainty = jnp.where(mean > 0, 1.0 - 4.0 * p * (1.0 - p), 0.0)
    deviation = jnp.where(all_equal(rewards)[..., None], 0.0, rewards - mean)
    percent = deviation / jnp.where(mean > 0, mean, 1.0)
    return (1.0 - certainty) * group_advantages(rewards, eps=eps) + certainty * percent


def zvp_advantages(
    rewards_BG: Array, entropy_BGC: Array, mask_BGC: Array, *, alpha: float = 0.1, right: float = 0.5, eps: float = 1e-4
) -> Array:
    """Advantages of each token; in groups of equal rewards signed, and scaled by the token's entropy.

    RL-ZVP (arXiv:2509.21880): ``+alpha H_t`` where all are right, ``-alpha (max_k H_k - H_t)`` where all are wrong (the
    maximum over the sequence), so that uncertain tokens are praised most and blamed least; other groups get the
    z-score at every token.  G = 1 is always a group of equal rewards.

    Args:
      rewards_BG: [..., G] rewards, any numeric type.
      entropy_BGC: [..., G, C] of each token's distribution, in nats.
      mask_BGC: bool [..., G, C], true at real tokens.
      alpha: advantage per nat.
      right: a sample with this reward or more is right.
      eps: of the z-score.

    Returns:
      float32 [..., G, C], 0 outside the mask.
    """
    entropy = jnp.where(mask_BGC, entropy_BGC, 0.0)
    wrong = alpha * (entropy - jnp.max(entropy, axis=-1, keepdims=True))
    signed = jnp.where((rewards_BG >= right)[..., None], alpha * entropy, wrong)
    scores = jnp.where(all_equal(rewards_BG)[..., None, None], signed, group_advantages(rewards_BG, eps=eps)[..., None])
    return jnp.where(mask_BGC, scores, 0.0)


def failing_groups(rewards_BG: Array, *, right: float = 1.0) -> Array:
    """1 for groups without a right sample, which a demonstration's likelihood is to be added to, else 0.

    The plain mix-in; in LUFFY's comparison (arXiv:2504.14945) it was worse than GRPO when it was added everywhere.
    A NaN is not right; a group of NaN alone fails.

    Args:
      rewards_BG: [B, G] rewards, any numeric type.
      right: a sample with this reward or more is right.

    Returns:
      float32 [B], for `lqlm.algorithms.grpo.GRPOBatch.demonstration_B`.
    """
    return 1.0 - jnp.any(rewards_BG >= right, axis=-1).astype(jnp.float32)
