"""Losses of a reward model, as functions of the numbers that it gives.

The pairwise ones are those of TRL's RewardTrainer (1.16).
"""

import chex
import jax
import jax.numpy as jnp

from lqlm.types import Array


def bradley_terry(chosen: Array, rejected: Array, margin: Array | float = 0.0) -> Array:
    """Negative log-likelihood of the preference, ``-log sigma(r_c - r_r - margin)``.

    Bradley and Terry 1952; InstructGPT (arXiv:2203.02155), equation 1; the margin of Llama 2 (arXiv:2307.09288).

    Args:
      chosen: [...] rewards of the preferred completions.
      rejected: [...] rewards of the others.
      margin: [...] or one number: the lead that is asked for.

    Returns:
      float32 [...].

    >>> print(bradley_terry(jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0])).round(4))
    [0.6931 2.1269]
    """
    chex.assert_equal_shape([chosen, rejected])
    return -jax.nn.log_sigmoid(chosen - rejected - margin)


def centring(chosen: Array, rejected: Array) -> Array:
    """What keeps rewards near 0, which a preference alone leaves open: ``(r_c + r_r)^2``.

    Eisenstein et al. (arXiv:2312.09244); TRL multiplies its mean by ``center_rewards_coefficient``.

    Args:
      chosen: [...] rewards of the preferred completions.
      rejected: [...] rewards of the others.

    Returns:
      [...].
    """
    return jnp.square(chosen + rejected)


def margin_ranking(first: Array, second: Array, sign: Array | float = 1.0, margin: Array | float = 1.0) -> Array:
    """Hinge on the difference, ``max(0, -y (x_1 - x_2) + margin)``.

    Args:
      first: [...] rewards.
      second: [...] rewards.
      sign: y: 1 where the first should be the greater, -1 where the second should.
      margin: [...] or one number: the lead from which on nothing is lost.

    Returns:
      [...].

    >>> print(margin_ranking(jnp.array([3.0, 3.0]), jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])))
    [0. 3.]
    """
    chex.assert_equal_shape([first, second])
    return jax.nn.relu(-sign * (first - second) + margin)


def classification(scores: Array, labels: Array) -> Array:
    """Binary cross-entropy of a score as the log-odds of "good", ``-[y log sigma(s) + (1 - y) log sigma(-s)]``.

    Args:
      scores: [...].
      labels: [...] in [0, 1], any numeric type.

    Returns:
      float32 [...].

    >>> print(classification(jnp.array([0.0, 2.0]), jnp.array([1, 0])).round(4))
    [0.6931 2.1269]
    """
    chex.assert_equal_shape([scores, labels])
    labels = labels.astype(jnp.float32)
    return -labels * jax.nn.log_sigmoid(scores) - (1.0 - labels) * jax.nn.log_sigmoid(-scores)


def regression(scores: Array, targets: Array) -> Array:
    """Squared error, ``(s - t)^2``: for rewards that somebody gave as numbers.

    Args:
      scores: [...].
      targets: [...], any numeric type.

    Returns:
      float32 [...].
    """
    chex.assert_equal_shape([scores, targets])
    return jnp.square(scores - targets.astype(jnp.float32))
