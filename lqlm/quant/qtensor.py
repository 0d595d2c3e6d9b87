"""A weight matrix in 2 to 8 bits: quantize and dequantize.

Weights are ``[in, out]`` here and ``[out, in]`` in bitsandbytes, which cuts the flattened matrix into blocks: they run
along ``in``.  Two layouts hold the same numbers:

* *rows* (``in`` divisible by the block): codes are packed along ``in`` (of 4 bits, byte ``(i, o)`` holds codes
  ``(2i, o)`` and ``(2i + 1, o)``), so that dequantization is elementwise in the order in which the matrix lies;
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
from lqlm.quant.blockwise import code_of_zero, dequantize_blockwise, nearest_code, quantize_blockwise, reciprocal
from lqlm.quant.codebooks import CODEBOOKS, Name, bits_of
from lqlm.quant.double import DoubleQuantized, double_quantize, undo_double
from lqlm.quant.packing import pack, unpack
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """How a weight is kept in few bits; the defaults are QLoRA's.

    Attributes:
        codebook: "nf4", "fp4", "int4" (4 bits), "nf3", "nf2", or "dynamic8" (8 bits).
        block: weights that share one maximum: 32 to 4096, a multiple of 32 (bitsandbytes knows the powers of two).
        double: keep the maxima in 8 bits too.
        double_block: maxima that share one second-level maximum.
    """

    codebook: Name = "nf4"
    block: int = 64
    double: bool = True
    double_block: int = 256

    def __post_init__(self) -> None:
        """Reject what no reader of the file could undo."""
        if self.codebook not in CODEBOOKS:
            raise UserError(f"quantization codebook {self.codebook!r} is unknown: use one of {', '.join(CODEBOOKS)}")
        if not 32 <= self.block <= 4096 or self.block % 32:
            raise UserError(f"quantization block {self.block} is not supported: use a multiple of 32 from 32 to 4096")
        if self.double_block < 1:
            raise UserError(f"quantization double_block {self.double_block} is not positive: use 256")

    @property
    def bits(self) -> int:
        """Bits of one code, its share of the maxima not counted."""
        return bits_of(self.codebook)

    @property
    def values(self) -> np.ndarray:
        """float32 [2**bits], the codebook."""
        return CODEBOOKS[self.codebook]


@flax.struct.dataclass
class QTensor:
    """A quantized matrix, or a stack whose every array carries the same leading axes (so that a scan slices it).

    Attributes:
        codes: uint8 [..., in * bits / 8, out] (rows) or [..., in * out * bits / 8, rounded up] (flat).
        maxima: with double quantization a :class:`DoubleQuantized` of [..., in * out / block] numbers in bitsandbytes'
            order (blocks of output 0 first); else float32 [..., in / block, out] (rows) or [..., blocks] (flat).
        shape: (in, out) of one matrix (static).
        dtype: what :func:`dequantize` returns unless told otherwise (static).
        config: how it was quantized (static).
        shift: None, or float32 [..., in / block, out] (rows only): a number per block, added to its values.  It is zero
            at first; group-wise adapters (QA-LoRA, arXiv:2309.14717) merge into it without loss.
    """

    codes: Array
    maxima: Array | DoubleQuantized
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)
    dtype: np.dtype = flax.struct.field(pytree_node=False)
    config: QuantConfig = flax.struct.field(pytree_node=False)
    shift: Array | None = None

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
    """Quantize matrices, in NF4 and FP4 bit for bit as bitsandbytes quantizes their transposes.

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
    codes = nearest_code(blocks * reciprocal(absmax)[:, None], config.values).reshape(w.shape)
    packed = pack(codes, config.bits)
    return packed, double_quantize(absmax.T.reshape(-1), config.double_block) if config.double else absmax


def _quantize_flat(w: Array, config: QuantConfig) -> tuple[Array, Array | DoubleQuantized]:
    codes, absmax = quantize_blockwise(w.T, config.values, config.block)
    packed = pack(codes, config.bits, code_of_zero(config.values))
    return packed, double_quantize(absmax, config.double_block) if config.double else absmax


@functools.partial(jax.jit, static_argnames=("dtype",))
def dequantize(q: QTensor, dtype: jnp.dtype | None = None) -> Array:
    """Rebuild the matrices: ``codebook[code] * absmax (+ shift)`` in float32, then one cast.

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


def _dequantize_rows(q: QTensor, dtype: np.dtype) -> Array:
    blocks = _values_of_rows(q).reshape(-1, q.config.block, q.shape[1]) * _maxima_of_rows(q)[:, None]
    if q.shift is not None:
        blocks = blocks + q.shift[:, None]
    return blocks.reshape(q.shape).astype(dtype)


def _values_of_rows(q: QTensor) -> Array:
    """float32 [in, out] within [-1, 1]: what the codes stand for."""
    if q.config.bits == 3:
        codes = unpack(q.codes, 3, q.shape[0])
        return jnp.asarray(q.config.values).at[codes.astype(jnp.int32)].get(mode="promise_in_bounds")
    # One lookup per value in a table indexed by the whole byte: no shifts, and faster on the CPU than 16 entries.
    table = _byte_table(q.config)
    index = q.codes.astype(jnp.int32)[:, None] + np.arange(0, table.size, 256, dtype=np.int32)[None, :, None]
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds").reshape(q.shape)


def _byte_table(config: QuantConfig) -> np.ndarray:
    """float32 [256 * 8 / bits]: for each byte the value of its first code, then for each that of its second, ..."""
    shifts = np.arange(8 - config.bits, -1, -config.bits)
    return config.values[(np.arange(256) >> shifts[:, None]) & (2**config.bits - 1)].reshape(-1)


def _maxima_of_rows(q: QTensor) -> Array:
    """float32 [in / block, out]."""
    if not isinstance(q.maxima, DoubleQuantized):
        return q.maxima
    by_output = undo_double(q.maxima).reshape(q.shape[1], -1)
    # Asking for a row-major array makes XLA transpose the maxima once.  Else the CPU backend fuses the whole chain of
    # lookups into the big product, strided and done again for every weight: twice the time of a dequantization.
    return with_layout_constraint(by_output.T, Layout((0, 1)))


def _dequantize_flat(q: QTensor, dtype: np.dtype) -> Array:
    if q.shift is not None:
        raise ValueError(f"shift needs blocks that divide the inputs: {q.shape[0]} inputs, blocks of {q.config.block}")
    absmax = undo_double(q.maxima) if isinstance(q.maxima, DoubleQuantized) else q.maxima
    codes = unpack(q.codes, q.config.bits, q.shape[0] * q.shape[1])
    return dequantize_blockwise(codes, absmax, q.config.values, q.config.block, dtype).reshape(q.shape[::-1]).T


def bits_per_parameter(q: QTensor) -> float:
    """Bits that the arrays of a quantized matrix take per weight, all levels counted.

    Args:
        q: arrays or abstract shapes.

    Returns:
        About 4.127 with the default configuration, 4.5 without double quantization.
    """
    weights = int(np.prod(q.lead)) * q.shape[0] * q.shape[1]
    return sum(8 * leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(q)) / weights
