"""Products with a 4-bit matrix straight from its codes, for NVIDIA GPUs (Pallas over Triton).

``y = x dequant(w)`` and ``dx = dy dequant(w)^T`` with the very weights that :func:`lqlm.quant.qtensor.dequantize`
returns: looked up, multiplied by their block's maximum in float32, rounded to the dtype of ``x``.  Only the order of
the float32 sums differs.

* A byte holds rows 2i and 2i + 1.  Instead of interleaving them, ``x`` is parted beforehand into its even and odd
  columns, and each half meets its own: ``y = x_even w_even + x_odd w_odd``.
* A table of 16 values is read through the first-level cache, which serves equal and neighbouring addresses at once.
  Choosing among 16 by comparisons takes 15 steps, several times what memory allows.
* Maxima in 8 bits are restored inside the kernel: three loads for 64 weights.  Restored beforehand they would be a
  kernel of their own for every matrix, and 0.06 bytes per weight to write and to read again.
* Few rows: the sum is split over programs, and the parts are added by a second, small sum.

The kernel is tested against its definition on the CPU (``interpret``) and by lowering.  Facts about such kernels:
bitsandbytes' gemv_4bit, Marlin (https://arxiv.org/abs/2408.11743), QLoRA (https://arxiv.org/abs/2305.14314).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lqlm.quant.codebooks import dynamic_map
from lqlm.quant.double import LARGEST, DoubleQuantized, undo_double
from lqlm.quant.kernels.tiles import Tiles, power_of_two_in, splits_for, tiles_for
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array

NARROW = 16
"""Columns that a tile has at least; matrices of another number of columns are filled up."""


def fusible(w: QTensor) -> bool:
    """Whether the kernels read this matrix: one matrix of 4-bit codes in rows, without shifts."""
    return w.rows and w.config.bits == 4 and w.shift is None and not w.lead


def fused_matmul(x: Array, w: QTensor, tiles: Tiles | None = None, *, interpret: bool = False) -> Array:
    """``x @ dequantize(w, x.dtype)`` with float32 sums, without the dequantized weight.

    Args:
        x: float32, bfloat16 or float16 [..., in].
        w: :func:`fusible`, [in, out].
        tiles: None for those of :func:`tiles_for`.
        interpret: run on any platform, slowly, for tests.

    Returns:
        The dtype of ``x``, [..., out].
    """
    rows = x.reshape(-1, w.shape[0])
    y = _forward(rows, w, tiles or tiles_for(len(rows)), interpret)
    return y.reshape(*x.shape[:-1], w.shape[1])


def fused_transposed(dy: Array, w: QTensor, tiles: Tiles | None = None, *, interpret: bool = False) -> Array:
    """``dy @ dequantize(w, dy.dtype).T`` with float32 sums, without the dequantized weight.

    Args:
        dy: float32, bfloat16 or float16 [..., out].
        w: :func:`fusible`, [in, out].
        tiles: None for those of :func:`tiles_for`.
        interpret: run on any platform, slowly, for tests.

    Returns:
        The dtype of ``dy``, [..., in].
    """
    rows = dy.reshape(-1, w.shape[1])
    dx = _backward(rows, w, tiles or tiles_for(len(rows)), interpret)
    return dx.reshape(*dy.shape[:-1], w.shape[0])


def _forward(x: Array, w: QTensor, tiles: Tiles, interpret: bool) -> Array:
    """``[M, in]`` to ``[M, out]``: a program for each tile of rows, of columns, and part of the sum."""
    codes, scales, scale_at = _operands(w)
    parted = _part(_fill(x, 0, tiles.rows))  # [2, M', in / 2]
    (_, height, half), width = parted.shape, codes.shape[1]
    deep, wide = power_of_two_in(w.config.block, tiles.depth) // 2, power_of_two_in(width, tiles.outs)
    grid, steps = (height // tiles.rows, width // wide), half // deep
    splits = splits_for(grid[0] * grid[1], steps, tiles.programs)
    share = -(-steps // splits)
    product = _by_tensor_cores if tiles.rows >= 16 else _row_by_row

    def kernel(x_ref: Any, codes_ref: Any, table_ref: Any, *rest: Any) -> None:
        *scale_refs, y_ref = rest
        columns = pl.program_id(1) * wide + jnp.arange(wide, dtype=jnp.int32)

        def load(k: Array) -> Array:
            return codes_ref[pl.ds(k * deep, deep), :]

        def step(k: Array, packed: Array, total: Array) -> Array:
            scale = scale_at(scale_refs, k * (2 * deep) // w.config.block, columns)
            for part, weights in enumerate(_look_up(table_ref, packed, scale, x_ref.dtype)):
                total = product(total, x_ref[part, :, pl.ds(k * deep, deep)], weights)
            return total

        start = jnp.zeros((tiles.rows, wide) if tiles.rows >= 16 else (tiles.rows, deep, wide), jnp.float32)
        total = _accumulate(pl.program_id(2) * share, share, steps, load, step, start)
        y_ref[...] = (total if tiles.rows >= 16 else jnp.sum(total, axis=1)).astype(y_ref.dtype)

    specs = [
        pl.BlockSpec((2, tiles.rows, half), lambda i, j, s: (0, i, 0)),
        pl.BlockSpec((half, wide), lambda i, j, s: (0, j)),
        *[_whole(array) for array in (_table(w), *scales)],
    ]
    out = pl.BlockSpec((None, tiles.rows, wide), lambda i, j, s: (s, i, j))
    call = _pallas(kernel, (*grid, splits), specs, out, (height, width), x.dtype, tiles, interpret, "fused_matmul")
    y = _add(call(parted, codes, _table(w), *scales), x.dtype)
    return y[: len(x), : w.shape[1]]


def _backward(dy: Array, w: QTensor, tiles: Tiles, interpret: bool) -> Array:
    """``[M, out]`` to ``[M, in]``: a program for each tile of rows, of the weight's rows, and part of the sum."""
    codes, scales, scale_at = _operands(w)
    rows = max(tiles.rows, 16)
    filled = _fill(_fill(dy, 0, rows), 1, codes.shape[1])
    (height, width), half = filled.shape, codes.shape[0]
    deep, wide = power_of_two_in(w.config.block, tiles.depth) // 2, power_of_two_in(width, tiles.outs)
    grid, steps = (height // rows, half // deep), width // wide
    splits = splits_for(grid[0] * grid[1], steps, tiles.programs)
    share = -(-steps // splits)

    def kernel(dy_ref: Any, codes_ref: Any, table_ref: Any, *rest: Any) -> None:
        *scale_refs, dx_ref = rest
        block = pl.program_id(1) * (2 * deep) // w.config.block

        def load(n: Array) -> Array:
            return codes_ref[:, pl.ds(n * wide, wide)]

        def step(n: Array, packed: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
            scale = scale_at(scale_refs, block, n * wide + jnp.arange(wide, dtype=jnp.int32))
            even, odd = _look_up(table_ref, packed, scale, dy_ref.dtype)
            given = dy_ref[:, pl.ds(n * wide, wide)]
            return _by_tensor_cores(totals[0], given, even.T), _by_tensor_cores(totals[1], given, odd.T)

        zero = jnp.zeros((rows, deep), jnp.float32)
        totals = _accumulate(pl.program_id(2) * share, share, steps, load, step, (zero, zero))
        for part in range(2):
            dx_ref[part] = totals[part].astype(dx_ref.dtype)

    specs = [
        pl.BlockSpec((rows, width), lambda i, k, s: (i, 0)),
        pl.BlockSpec((deep, width), lambda i, k, s: (k, 0)),
        *[_whole(array) for array in (_table(w), *scales)],
    ]
    out = pl.BlockSpec((None, 2, rows, deep), lambda i, k, s: (s, 0, i, k))
    shape = (2, height, half)
    call = _pallas(kernel, (*grid, splits), specs, out, shape, dy.dtype, tiles, interpret, "fused_transposed")
    dx = _add(call(filled, codes, _table(w), *scales), dy.dtype)
    return jnp.moveaxis(dx, 0, -1).reshape(height, w.shape[0])[: len(dy)]


def _accumulate(first: Array, share: int, steps: int, load: Callable, step: Callable, start: Any) -> Any:
    """``total = step(i, load(i), total)`` for one part of the sum; the next codes are on their way meanwhile."""
    last = jnp.minimum(first + share, steps)

    def body(i: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        ahead = load(jnp.minimum(i + 1, steps - 1))
        return ahead, step(i, carry[0], carry[1])

    return jax.lax.fori_loop(first, last, body, (load(jnp.minimum(first, steps - 1)), start))[1]


def _pallas(
    kernel: Callable,
    grid: tuple[int, int, int],
    specs: list[pl.BlockSpec],
    out: pl.BlockSpec,
    shape: tuple[int, ...],
    dtype: Any,
    tiles: Tiles,
    interpret: bool,
    name: str,
) -> Callable:
    """The call; parts of a sum stay in float32 until they are added."""
    splits = grid[2]
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=out,
        out_shape=jax.ShapeDtypeStruct((splits, *shape), dtype if splits == 1 else jnp.float32),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name=name,
    )


def _add(parts: Array, dtype: Any) -> Array:
    return parts[0] if len(parts) == 1 else jnp.sum(parts, axis=0).astype(dtype)


def _part(x: Array) -> Array:
    """``[M, K]`` to ``[2, M, K / 2]``: the even columns, then the odd ones."""
    return jnp.moveaxis(x.reshape(len(x), -1, 2), -1, 0)


def _fill(x: Array, axis: int, multiple: int) -> Array:
    """Zeros after the end of an axis, to a multiple."""
    missing = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x


def _whole(array: Array) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda i, j, s: (0,) * array.ndim)


def _table(w: QTensor) -> Array:
    return jnp.asarray(w.config.values)


def _look_up(table_ref: Any, packed: Array, scale: Array, dtype: Any) -> tuple[Array, Array]:
    """The even and the odd rows of the weights whose bytes are ``packed``, with the bits of ``dequantize``."""
    byte = packed.astype(jnp.int32)
    high, low = (table_ref[code] * scale[None, :] for code in (byte >> 4, byte & 15))
    return high.astype(dtype), low.astype(dtype)


def _by_tensor_cores(total: Array, x: Array, weights: Array) -> Array:
    dims = (((1,), (0,)), ((), ()))
    return total + jax.lax.dot_general(x, weights, dims, preferred_element_type=jnp.float32)


def _row_by_row(total: Array, x: Array, weights: Array) -> Array:
    """``[M, deep, wide]`` grows by the products, summed over ``deep`` at the end only."""
    return total + x.astype(jnp.float32)[:, :, None] * weights.astype(jnp.float32)[None, :, :]


def _operands(w: QTensor) -> tuple[Array, tuple[Array, ...], Callable]:
    """Codes, arrays of the maxima, and a function that reads those of one row of blocks and some columns."""
    blocks, codes = w.shape[0] // w.config.block, _fill(w.codes, 1, NARROW)
    whole = codes.shape == w.codes.shape
    if isinstance(w.maxima, DoubleQuantized) and whole:
        packed = w.maxima
        arrays = (packed.codes, packed.absmax, packed.offset.reshape(1), jnp.asarray(dynamic_map()))
        return codes, arrays, functools.partial(_restored, blocks=blocks, block=packed.block)
    maxima = undo_double(w.maxima).reshape(-1, blocks).T if isinstance(w.maxima, DoubleQuantized) else w.maxima
    return codes, (_fill(maxima, 1, NARROW),), _plain


def _plain(refs: list[Any], row: Array, columns: Array) -> Array:
    (maxima_ref,) = refs
    return maxima_ref[jnp.full(columns.shape, row, jnp.int32), columns]


def _restored(refs: list[Any], row: Array, columns: Array, *, blocks: int, block: int) -> Array:
    """As :func:`lqlm.quant.double.undo_double`, product and sum rounded separately."""
    codes_ref, absmax_ref, offset_ref, map_ref = refs
    index = columns * blocks + row  # maxima lie by column
    products = map_ref[codes_ref[index].astype(jnp.int32)] * absmax_ref[index // block]
    return jnp.clip(products, -LARGEST, LARGEST) + offset_ref[0]
