"""Blockwise quantization of flat arrays, bit for bit that of bitsandbytes 0.50.2.

The arithmetic is float32 whatever the input: ``x * (1 / absmax)`` in full blocks and ``x / absmax`` in the last,
partial one; dequantization is one float32 product and one cast.  XLA flushes subnormal numbers to zero, so the
equality is claimed for blocks whose maximum is 0 or lies between 1e-36 and 8e37.
"""

import jax.numpy as jnp
import numpy as np

from lqlm.quant.codebooks import in_order, thresholds
from lqlm.types import Array

TINY = np.float32(1e-38)
"""The maximum that bitsandbytes records for a partial last block of zeros."""


def nearest_code(x: Array, codebook: np.ndarray) -> Array:
    """Code of the nearest value of a codebook, ``argmin_c |x - codebook_c|``; NaN gets that of the largest.

    Values need no clipping to [-1, 1] first: what lies outside gets the code of an end all the same.

    Args:
        x: float32 of any shape, divided by the maximum of its block.
        codebook: float32 [n], n at most 256.

    Returns:
        uint8 of the shape of ``x``.
    """
    bounds, order = thresholds(codebook), in_order(codebook)
    if len(bounds) > 15:
        place = _count_below(jnp.asarray(bounds), x).astype(jnp.uint8)
    else:
        # `not <=` rather than `>` so that NaN counts every threshold, as in a sorted search.
        place = sum((~(x <= bound)).astype(jnp.uint8) for bound in bounds)
    if np.array_equal(order, np.arange(len(order))):
        return place
    return jnp.asarray(order).at[place.astype(jnp.int32)].get(mode="promise_in_bounds")


def _count_below(bounds: Array, x: Array) -> Array:
    """How many of ``2**b - 1`` sorted bounds lie below each value (all, for NaN).

    A binary search in b steps without a loop, so that XLA fuses it with what is around it: `jnp.searchsorted` took 25
    times as long on the CPU, and six times the memory.
    """
    place = jnp.zeros(x.shape, jnp.int32)
    for step in (2**bit for bit in reversed(range(len(bounds).bit_length()))):
        bound = bounds.at[place + (step - 1)].get(mode="promise_in_bounds")
        place = place + jnp.where(x <= bound, 0, step)
    return place


def code_of_zero(codebook: np.ndarray) -> int:
    """The code that :func:`nearest_code` gives to zero; it fills up the last byte of packed codes."""
    place = np.sum(thresholds(codebook) < 0)
    return int(in_order(codebook)[place])


def reciprocal(absmax: Array) -> Array:
    """``1 / absmax``, and 1 where the block is all zeros (a zero times anything keeps the code of zero)."""
    return jnp.float32(1) / jnp.where(absmax == 0, jnp.float32(1), absmax)


def quantize_blockwise(x: Array, codebook: np.ndarray, block: int = 64) -> tuple[Array, Array]:
    """Quantize an array, flattened row by row, in blocks of consecutive values.

    ``absmax_b = max_{i in b} |x_i|``, ``code_i = argmin_c |x_i / absmax_b - codebook_c|``.
    Dettmers et al. 2021, https://arxiv.org/abs/2110.02861, section 2.1.

    Args:
        x: floating array of n values, any shape.
        codebook: float32 [2**bits], values by code, within [-1, 1].
        block: values per block; the last block may be shorter.

    Returns:
        codes uint8 [n] and block maxima float32 [ceil(n / block)].

    >>> from lqlm.quant.codebooks import NF4
    >>> codes, absmax = quantize_blockwise(jnp.array([0.0, 2.0, -2.0, 1.0]), NF4)
    >>> codes.tolist(), absmax.tolist()
    ([7, 15, 0, 12], [2.0])
    """
    flat = x.reshape(-1).astype(jnp.float32)
    full = flat.size - flat.size % block
    blocks = flat[:full].reshape(-1, block)
    absmax = jnp.max(jnp.abs(blocks), axis=1)
    codes = nearest_code(blocks * reciprocal(absmax)[:, None], codebook).reshape(-1)
    if full == flat.size:
        return codes, absmax
    tail_codes, tail_max = _quantize_tail(flat[full:], codebook)
    return jnp.concatenate([codes, tail_codes]), jnp.concatenate([absmax, tail_max[None]])


def _quantize_tail(tail: Array, codebook: np.ndarray) -> tuple[Array, Array]:
    """The partial last block: divides, and records 1e-38 instead of a maximum of zero."""
    top = jnp.max(jnp.abs(tail))
    divisor = jnp.where(top == 0, jnp.float32(1), top)
    # XLA turns x / broadcast(a) into x * (1 / a), which differs in the last bit; the maximum (always the divisor
    # itself) hides from it that all the divisors are one.
    scaled = tail / jnp.maximum(divisor, jnp.abs(tail))
    return nearest_code(scaled, codebook), jnp.where(top == 0, TINY, top)


def dequantize_blockwise(
    codes: Array, absmax: Array, codebook: np.ndarray, block: int = 64, dtype: jnp.dtype = jnp.float32
) -> Array:
    """Undo :func:`quantize_blockwise`: ``codebook[code_i] * absmax_b`` in float32, then one cast.

    Args:
        codes: uint8 [n].
        absmax: float32 [ceil(n / block)].
        codebook: the one that made the codes.
        block: values per block.
        dtype: dtype of the result.

    Returns:
        ``dtype`` [n].  A block whose maximum is NaN is NaN throughout.
    """
    values = jnp.asarray(codebook).at[codes.astype(jnp.int32)].get(mode="promise_in_bounds")
    full = codes.size - codes.size % block
    out = (values[:full].reshape(-1, block) * absmax[: full // block, None]).reshape(-1)
    if full < codes.size:
        out = jnp.concatenate([out, values[full:] * absmax[-1]])
    return out.astype(dtype)
