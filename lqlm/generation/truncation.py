"""Cutting the tail off a distribution: top-k (Fan et al. 2018), top-p (arXiv:1904.09751), min-p (arXiv:2407.01082).

None sorts the vocabulary: on a CPU that takes longer than the rest of a small model's decoding step.
"""

import jax
import jax.numpy as jnp

from lqlm.types import Array

NEVER = -1e30
"""Logit of a token that cannot be drawn: finite, so that no difference of two such logits is NaN."""
CANDIDATES = 64


def keep_top_k(logits: Array, k: int) -> Array:
    """Logits ``[..., V]`` with all but the k largest at `NEVER` (ties with the k-th stay); k of 0 or above V keeps all.

    >>> print(keep_top_k(jnp.array([1.0, 3.0, 2.0]), 2) > NEVER)
    [False  True  True]
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    kth = _largest(logits, k)[..., -1:]
    return jnp.where(logits < kth, NEVER, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Logits ``[..., V]`` with all outside the nucleus at `NEVER`: token i stays if ``sum_{j: z_j > z_i} p_j < p``.

    The most probable token always stays, and so do ties with the last that stays.  Where the nucleus has at most
    `CANDIDATES` tokens it is read off the largest logits; else its last logit is found by bisection over the floats,
    at most 31 sums over the vocabulary: exact either way, but for the rounding of the sums.

    >>> print(keep_top_p(jnp.log(jnp.array([0.2, 0.5, 0.3])), 0.6) > NEVER)
    [False  True  True]
    """
    if p >= 1.0:
        return logits
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    share = p * jnp.sum(weights, axis=-1)
    largest = _largest(weights, min(CANDIDATES, logits.shape[-1]))
    before = jnp.cumsum(largest, axis=-1) - largest
    last = jnp.maximum(jnp.sum(before < share[..., None], axis=-1, dtype=jnp.int32) - 1, 0)
    threshold = jnp.take_along_axis(largest, last[..., None], axis=-1)[..., 0]
    enough = (before[..., -1] + largest[..., -1] >= share) | (largest.shape[-1] == logits.shape[-1])
    threshold = _bisect(weights, share, threshold, enough)
    return jnp.where(weights < threshold[..., None], NEVER, logits)


def keep_min_p(logits: Array, p: float) -> Array:
    """Logits ``[..., V]`` with the tokens of less than p times the largest probability at `NEVER`; 0 keeps all.

    >>> print(keep_min_p(jnp.log(jnp.array([0.05, 0.6, 0.35])), 0.1) > NEVER)
    [False  True  True]
    """
    if p <= 0.0:
        return logits
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return jnp.where(weights < p, NEVER, logits)


def _largest(x: Array, k: int) -> Array:
    # Where a part of the result is taken, XLA's CPU compiler no longer sees a top-k and sorts everything instead.
    return jax.lax.optimization_barrier(jax.lax.top_k(x, k)[0])


def _bisect(weights: Array, share: Array, above: Array, done: Array) -> Array:
    """The smallest t >= 0 with ``sum of the weights > t`` less than the share, where not done; ``above`` elsewhere.

    Floats of one sign are ordered as their bits are, so that halving an interval of bits ends at a neighbour.
    """
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)
    high = jax.lax.bitcast_convert_type(above, jnp.int32)
    low = jnp.where(done, high - 1, -1)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        mass = jnp.sum(jnp.where(bits > middle[..., None], weights, 0.0), axis=-1)
        return jnp.where(mass < share, low, middle), jnp.where(mass < share, middle, high)

    low, high = jax.lax.while_loop(lambda bounds: jnp.any(bounds[1] - bounds[0] > 1), halve, (low, high))
    return jax.lax.bitcast_convert_type(high, jnp.float32)
