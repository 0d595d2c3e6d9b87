"""Blockwise quantization of flat arrays, bit for bit that of bitsandbytes 0.50.2.

The arithmetic is float32 whatever the input: ``x * (1 / absmax)`` in full blocks and ``x / absmax`` in the last,
partial one; dequantization is one float32 product and one cast.  XLA flushes subnormal numbers to zero, so the
equality is claimed for blocks whose maximum is 0 or lies between 1e-36 and 8e37.
"""

import jax.numpy as jnp
import numpy as np

from lqlm.quant.codebooks import thresholds
from lqlm.types import Array

TINY = np.float32(1e-38)
"""The maximum that bitsandbytes records for a partial last block of zeros."""

PAD_CODE = np.uint8(7)
"""NF4's code of zero, which fills the second half of the last byte when the number of codes is odd."""


def nearest_code(x: Array, bounds: np.ndarray) -> Array:
    """Number of thresholds strictly below each value; NaN gets the last code.

    Values need no clipping to [-1, 1] first: what lies outside gets the first or last code all the same.

    Args:
        x: float32 of any shape, divided by the maximum of its block.
        bounds: float32 [n], from :func:`lqlm.quant.codebooks.thresholds`.

    Returns:
        uint8 of the shape of ``x``.
    """
    if len(bounds) > 15:
        return jnp.searchsorted(jnp.asarray(bounds), x).astype(jnp.uint8)
    # `not <=` rather than `>` so that NaN counts every threshold, as in a sorted search.
    return sum((~(x <= bound)).astype(jnp.uint8) for bound in bounds)


def reciprocal(absmax: Array) -> Array:
    """``1 / absmax``, and 1 where the block is all zeros (a zero times anything keeps the code of zero)."""
    return jnp.float32(1) / jnp.where(absmax == 0, jnp.float32(1), absmax)


def quantize_blockwise(x: Array, codebook: np.ndarray, block: int = 64) -> tuple[Array, Array]:
    """Quantize an array, flattened row by row, in blocks of consecutive values.

    ``absmax_b = max_{i in b} |x_i|``, ``code_i = argmin_c |x_i / absmax_b - codebook_c|``.
    Dettmers et al. 2021, https://arxiv.org/abs/2110.02861, section 2.1.

    Args:
        x: floating array of n values, any shape.
        codebook: float32 [16] or [256], sorted within [-1, 1].
        block: values per block; the last block may be shorter.

    Returns:
        codes uint8 [n] and block maxima float32 [ceil(n / block)].

    >>> from lqlm.quant.codebooks import NF4
    >>> codes, absmax = quantize_blockwise(jnp.array([0.0, 2.0, -2.0, 1.0]), NF4)
    >>> codes.tolist(), absmax.tolist()
    ([7, 15, 0, 12], [2.0])
    """
    flat, bounds = x.reshape(-1).astype(jnp.float32), thresholds(codebook)
    full = flat.size - flat.size % block
    blocks = flat[:full].reshape(-1, block)
    absmax = jnp.max(jnp.abs(blocks), axis=1)
    codes = nearest_code(blocks * reciprocal(absmax)[:, None], bounds).reshape(-1)
    if full == flat.size:
        return codes, absmax
    tail_codes, tail_max = _quantize_tail(flat[full:], bounds)
    return jnp.concatenate([codes, tail_codes]), jnp.concatenate([absmax, tail_max[None]])


def _quantize_tail(tail: Array, bounds: np.ndarray) -> tuple[Array, Array]:
    """The partial last block: divides, and records 1e-38 instead of a maximum of zero."""
    top = jnp.max(jnp.abs(tail))
    divisor = jnp.where(top == 0, jnp.float32(1), top)
    # XLA turns x / broadcast(a) into x * (1 / a), which differs in the last bit; the maximum (always the divisor
    # itself) hides from it that all the divisors are one.
    scaled = tail / jnp.maximum(divisor, jnp.abs(tail))
    return nearest_code(scaled, bounds), jnp.where(top == 0, TINY, top)


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


def pack_nibbles(codes: Array) -> Array:
    """Pack pairs of 4-bit codes along the last axis, the first of each pair in the high half of the byte.

    Args:
        codes: uint8 [..., n], each below 16.

    Returns:
        uint8 [..., ceil(n / 2)]; an odd n is filled up with NF4's code of zero.

    >>> pack_nibbles(jnp.array([1, 2, 3], jnp.uint8)).tolist()
    [18, 55]
    """
    if codes.shape[-1] % 2:
        fill = jnp.full((*codes.shape[:-1], 1), PAD_CODE)
        codes = jnp.concatenate([codes, fill], axis=-1)
    return (codes[..., ::2] << jnp.uint8(4)) | codes[..., 1::2]


def unpack_nibbles(packed: Array, size: int | None = None) -> Array:
    """Undo :func:`pack_nibbles`.

    Args:
        packed: uint8 [..., m].
        size: number of codes to keep along the last axis (all ``2 m`` when None).

    Returns:
        uint8 [..., size].
    """
    pairs = jnp.stack([packed >> jnp.uint8(4), packed & jnp.uint8(15)], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)[..., :size]
