"""Codes of 2, 3, 4 and 8 bits in bytes, along the first axis.

A byte holds consecutive codes, the first in its highest bits (bitsandbytes' order for 4 bits).  Codes of 3 bits are
parted: their upper two bits are packed as codes of 2, their lowest bit as codes of 1, and the second part follows the
first.  A code's place then depends on nothing but its index, as with the others.
"""

import jax.numpy as jnp

from lqlm.types import Array


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes take along the packed axis.

    >>> packed_size(64, 3), packed_size(5, 4)
    (24, 3)
    """
    if bits == 3:
        return packed_size(count, 2) + packed_size(count, 1)
    return -(-count * bits // 8)


def pack(codes: Array, bits: int, fill: int = 0) -> Array:
    """Pack codes along the first axis.

    Args:
        codes: uint8 [n, ...], each below ``2**bits``.
        bits: 1, 2, 3, 4 or 8.
        fill: the code that fills up the last byte.

    Returns:
        uint8 [packed_size(n, bits), ...].

    >>> pack(jnp.array([1, 2, 3], jnp.uint8), 4, fill=7).tolist()
    [18, 55]
    """
    if bits == 8:
        return codes
    if bits == 3:
        one = jnp.uint8(1)
        return jnp.concatenate([pack(codes >> one, 2, fill >> 1), pack(codes & one, 1, fill & 1)])
    per = 8 // bits
    widths = [(0, -len(codes) % per)] + [(0, 0)] * (codes.ndim - 1)
    parts = jnp.pad(codes, widths, constant_values=fill).reshape(-1, per, *codes.shape[1:])
    byte = parts[:, 0]
    for i in range(1, per):
        byte = (byte << jnp.uint8(bits)) | parts[:, i]
    return byte


def unpack(packed: Array, bits: int, count: int) -> Array:
    """Undo :func:`pack`.

    Args:
        packed: uint8 [packed_size(count, bits), ...].
        bits: as packed.
        count: codes to return.

    Returns:
        uint8 [count, ...].
    """
    if bits == 8:
        return packed
    if bits == 3:
        upper, lower = planes(packed, count)
        return (unpack(upper, 2, count) << jnp.uint8(1)) | unpack(lower, 1, count)
    shifts = range(8 - bits, -1, -bits)
    parts = jnp.stack([(packed >> jnp.uint8(s)) & jnp.uint8(2**bits - 1) for s in shifts], axis=1)
    return parts.reshape(-1, *packed.shape[1:])[:count]


def planes(packed: Array, count: int) -> tuple[Array, Array]:
    """The bytes of the upper two bits and those of the lowest bit of packed 3-bit codes."""
    split = packed_size(count, 2)
    return packed[:split], packed[split:]
