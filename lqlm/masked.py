"""Reductions over real tokens only, and the mask that an end-of-sequence token leaves behind.

Every reduction is float32 whatever the type of ``x`` (an integer mean of rewards would turn 0.5 into 0), looks at no
value where the mask is false (a NaN in the padding stays there), and gives 0 where nothing is selected.
"""

from collections.abc import Sequence

import chex
import jax.numpy as jnp

from lqlm.types import Array

Axis = int | tuple[int, ...] | None


def masked_sum(x: Array, mask: Array, axis: Axis = None) -> Array:
    """Sum of the selected elements, ``sum_i m_i x_i``.

    Args:
      x: [...], any numeric type.
      mask: [...], true where an element counts; the shape of x.
      axis: axes to reduce; all by default.

    Returns:
      float32, x without the reduced axes.

    >>> print(masked_sum(jnp.array([1, 2, 3]), jnp.array([True, False, True])))
    4.0
    """
    chex.assert_equal_shape([x, mask])
    return jnp.sum(jnp.where(mask.astype(bool), x.astype(jnp.float32), 0.0), axis=axis)


def masked_mean(x: Array, mask: Array, axis: Axis = None) -> Array:
    """Mean of the selected elements, ``sum_i m_i x_i / sum_i m_i``; 0 where nothing is selected.

    Args:
      x: [...], any numeric type.
      mask: [...], true where an element counts; the shape of x.
      axis: axes to reduce; all by default.

    Returns:
      float32, x without the reduced axes.

    >>> print(masked_mean(jnp.array([0, 1, 9]), jnp.array([True, True, False])))
    0.5
    """
    count = masked_sum(jnp.ones_like(x), mask, axis)
    return masked_sum(x, mask, axis) / jnp.maximum(count, 1.0)


def masked_var(x: Array, mask: Array, axis: Axis = None, *, ddof: int = 0) -> Array:
    """Variance of the selected elements, ``sum_i m_i (x_i - mean)^2 / (sum_i m_i - ddof)``.

    Args:
      x: [...], any numeric type.
      mask: [...], true where an element counts; the shape of x.
      axis: axes to reduce; all by default.
      ddof: 0 for the variance of these values, 1 (Bessel) for an estimate of the variance they were drawn with.

    Returns:
      float32, x without the reduced axes; 0 where no more than ddof elements are selected.

    >>> print(masked_var(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False]), ddof=1))
    2.0
    """
    axes = tuple(range(x.ndim)) if axis is None else axis
    mean = jnp.expand_dims(masked_mean(x, mask, axes), axes)
    # Masked values are replaced before the subtraction, so that an infinity among them gives no NaN.
    deviation = jnp.where(mask.astype(bool), x.astype(jnp.float32), 0.0) - mean
    count = masked_sum(jnp.ones_like(x), mask, axes)
    total = masked_sum(jnp.square(deviation), mask, axes)
    return jnp.where(count > ddof, total / jnp.maximum(count - ddof, 1.0), 0.0)


def completion_mask(tokens: Array, eos_ids: Sequence[int] | Array) -> Array:
    """True up to and including the first end-of-sequence token, false after it.

    ``m_t = (sum_{s<t} [token_s is an EOS]) == 0``.  The sum is exclusive: a row that begins with an EOS has one real
    token, a row without an EOS has C, and neither is mistaken for the other.

    Args:
      tokens: [..., C] generated tokens.
      eos_ids: the tokens that end a completion; none of them means that every token is real.

    Returns:
      bool [..., C].

    >>> print(completion_mask(jnp.array([5, 2, 7, 2]), [2]))
    [ True  True False False]
    """
    eos = jnp.asarray(eos_ids, tokens.dtype).reshape((1,) * tokens.ndim + (-1,))
    is_eos = jnp.any(tokens[..., None] == eos, axis=-1).astype(jnp.int32)
    return jnp.cumsum(is_eos, axis=-1) - is_eos == 0
