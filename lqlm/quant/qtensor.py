"""A weight matrix in 4 bits: quantize, dequantize, and exchange with bitsandbytes.

Weights are ``[in, out]`` here and ``[out, in]`` in bitsandbytes, which cuts the flattened matrix into blocks: they run
along ``in``.  Two layouts hold the same numbers:

* *rows* (``in`` divisible by the block): byte ``(i, o)`` holds codes ``(2i, o)`` and ``(2i + 1, o)``, so that
  dequantization is elementwise in the order in which the matrix lies in memory;
* *flat* (any other ``in``): bitsandbytes' bytes as they are; dequantization transposes.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from lqlm.errors import UserError
from lqlm.quant.blockwise import (
    dequantize_blockwise,
    nearest_code,
    pack_nibbles,
    quantize_blockwise,
    reciprocal,
    unpack_nibbles,
)
from lqlm.quant.codebooks import NF4, thresholds
from lqlm.quant.double import DoubleQuantized, double_quantize, undo_double
from lqlm.types import Array

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """How a weight is kept in 4 bits; the defaults are QLoRA's.

    Attributes:
        codebook: "nf4", the only one so far.
        block: weights that share one maximum.
        double: keep the maxima in 8 bits too.
        double_block: maxima that share one second-level maximum.
    """

    codebook: str = "nf4"
    block: int = 64
    double: bool = True
    double_block: int = 256

    def __post_init__(self) -> None:
        """Reject what no reader of the file could undo."""
        if self.codebook != "nf4":
            raise UserError(f"quantization codebook {self.codebook!r} is unknown: use 'nf4'")
        if self.block not in BLOCKS:
            raise UserError(f"quantization block {self.block} is not supported: use one of {BLOCKS}")
        if self.double_block < 1:
            raise UserError(f"quantization double_block {self.double_block} is not positive: use 256")


@flax.struct.dataclass
class QTensor:
    """A 4-bit matrix, or a stack of them whose every array carries the same leading axes (so that a scan slices it).

    Attributes:
        codes: uint8 [..., in / 2, out] (rows) or [..., ceil(in * out / 2)] (flat).
        maxima: with double quantization a :class:`DoubleQuantized` of [..., in * out / block] numbers in bitsandbytes'
            order (blocks of output 0 first); else float32 [..., in / block, out] (rows) or [..., blocks] (flat).
        shape: (in, out) of one matrix (static).
        dtype: what :func:`dequantize` returns unless told otherwise (static).
        config: how it was quantized (static).
    """

    codes: Array
    maxima: Array | DoubleQuantized
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)
    dtype: np.dtype = flax.struct.field(pytree_node=False)
    config: QuantConfig = flax.struct.field(pytree_node=False)

    @property
    def rows(self) -> bool:
        """Whether the codes lie in the order of the matrix."""
        return _in_rows(self.shape, self.config)

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes: (L,) for stacked layers, () for one matrix."""
        return self.codes.shape[: -2 if self.rows else -1]


def _in_rows(shape: tuple[int, ...], config: QuantConfig) -> bool:
    return shape[0] % config.block == 0


def check_finite(name: str, array: Array | np.ndarray) -> None:
    """Raise a :class:`UserError` that names the tensor if it holds NaN or infinity (on the host, before quantizing).

    One such value makes its whole block NaN, and with double quantization the whole matrix.

    Args:
        name: of the tensor, with its file where there is one.
        array: any floating array.
    """
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(
            f"{name} holds {int(bad.sum())} NaN or infinite values, the first at {first}: "
            "fetch or export the model again"
        )


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def quantize(w: Array, config: QuantConfig = QuantConfig(), dtype: jnp.dtype | None = None) -> QTensor:
    """Quantize matrices to 4 bits, bit for bit as bitsandbytes quantizes their transposes.

    Args:
        w: floating [..., in, out]; each matrix of a stack is quantized on its own.
        config: block sizes and double quantization.
        dtype: what to dequantize into later; the dtype of ``w`` when None.

    Returns:
        A :class:`QTensor` with the leading axes of ``w``.
    """
    target = np.dtype(w.dtype if dtype is None else dtype)
    one = functools.partial(_quantize_rows if _in_rows(w.shape[-2:], config) else _quantize_flat, config=config)
    for _ in w.shape[:-2]:
        one = jax.vmap(one)
    codes, maxima = one(w)
    return QTensor(codes, maxima, (w.shape[-2], w.shape[-1]), target, config)


def _quantize_rows(w: Array, config: QuantConfig) -> tuple[Array, Array | DoubleQuantized]:
    blocks = w.astype(jnp.float32).reshape(-1, config.block, w.shape[1])
    absmax = jnp.max(jnp.abs(blocks), axis=1)
    codes = nearest_code(blocks * reciprocal(absmax)[:, None], thresholds(NF4)).reshape(-1, 2, w.shape[1])
    packed = (codes[:, 0] << jnp.uint8(4)) | codes[:, 1]
    return packed, double_quantize(absmax.T.reshape(-1), config.double_block) if config.double else absmax


def _quantize_flat(w: Array, config: QuantConfig) -> tuple[Array, Array | DoubleQuantized]:
    codes, absmax = quantize_blockwise(w.T, NF4, config.block)
    return pack_nibbles(codes), double_quantize(absmax, config.double_block) if config.double else absmax


@functools.partial(jax.jit, static_argnames=("dtype",))
def dequantize(q: QTensor, dtype: jnp.dtype | None = None) -> Array:
    """Rebuild the matrices: ``NF4[code] * absmax`` in float32, then one cast.

    The bits equal bitsandbytes' when the result leaves the compiled function; a float32 sum that directly follows
    inside it may be fused with the product.

    Args:
        q: codes and maxima with any leading axes.
        dtype: dtype of the result; ``q.dtype`` when None.

    Returns:
        ``dtype`` [..., in, out].
    """
    one = functools.partial(_dequantize_rows if q.rows else _dequantize_flat, dtype=np.dtype(dtype or q.dtype))
    for _ in q.lead:
        one = jax.vmap(one)
    return one(q)


def _pair_table() -> Array:
    """float32 [512]: for each byte the value of its high half, then for each byte the value of its low half."""
    byte = np.arange(256)
    return jnp.asarray(np.concatenate([NF4[byte >> 4], NF4[byte & 15]]))


def _dequantize_rows(q: QTensor, dtype: np.dtype) -> Array:
    # One lookup per value in a table indexed by the whole byte: no shifts, and faster on the CPU than 16 entries.
    index = q.codes.astype(jnp.int32)[:, None] + jnp.array([0, 256], jnp.int32)[None, :, None]
    values = _pair_table().at[index].get(mode="promise_in_bounds")
    blocks = values.reshape(-1, q.config.block, q.shape[1])
    return (blocks * _maxima_of_rows(q)[:, None]).reshape(q.shape).astype(dtype)


def _maxima_of_rows(q: QTensor) -> Array:
    """float32 [in / block, out]."""
    if not isinstance(q.maxima, DoubleQuantized):
        return q.maxima
    by_output = undo_double(q.maxima).reshape(q.shape[1], -1)
    # Asking for a row-major array makes XLA transpose the maxima once.  Else the CPU backend fuses the whole chain of
    # lookups into the big product, strided and done again for every weight: twice the time of a dequantization.
    return with_layout_constraint(by_output.T, Layout((0, 1)))


def _dequantize_flat(q: QTensor, dtype: np.dtype) -> Array:
    absmax = undo_double(q.maxima) if isinstance(q.maxima, DoubleQuantized) else q.maxima
    codes = unpack_nibbles(q.codes, q.shape[0] * q.shape[1])
    return dequantize_blockwise(codes, absmax, NF4, q.config.block, dtype).reshape(q.shape[::-1]).T


def bits_per_parameter(q: QTensor) -> float:
    """Bits that the arrays of a quantized matrix take per weight, all levels counted.

    Args:
        q: arrays or abstract shapes.

    Returns:
        About 4.127 with the default configuration, 4.5 without double quantization.
    """
    weights = int(np.prod(q.lead)) * q.shape[0] * q.shape[1]
    return sum(8 * leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(q)) / weights
