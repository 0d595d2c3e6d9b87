"""Multiplication by a weight that may be quantized, layer by layer in a format of its own.

On an NVIDIA GPU few rows meet 4-bit weights in a fused kernel (:mod:`lqlm.quant.kernels`); many rows, other formats and
other platforms dequantize one matrix and multiply.  Both use the same weights, and differ in the order of the float32
sums.  XLA cannot divide a kernel over devices and would collect its operands on each, so that a process that sees
several devices always dequantizes; that product is divided as any other.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lqlm.order import after
from lqlm.quant.kernels import MOST_ROWS, fused_matmul, fused_transposed, fusible
from lqlm.quant.mixed import MixedLayer, choose
from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.quant.transposed import Transposed
from lqlm.types import Array, PyTree


def matmul(x: Array, w: QTensor | MixedLayer | Transposed | Array) -> Array:
    """``x @ w`` in the dtype of ``x``; the operands in the narrower of both dtypes, the sums in float32.

    For a quantized ``w``, ``y = x dequant(w)`` and ``dx = dy dequant(w)^T``, dequantized again in the backward pass:
    what is kept between the passes are the codes, and ``w`` gets no gradient.  Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314, equation 5.

    Args:
        x: floating [..., in].
        w: one matrix [in, out]; stacked layers are sliced by a scan (or mapped by vmap) first.

    Returns:
        The dtype of ``x``, [..., out].
    """
    if isinstance(w, QTensor | MixedLayer):
        return _frozen(x, w)
    if isinstance(w, Transposed):
        return _few_rows(x, w.w_FD)
    return _contract(x, w, 0) if narrower(x.dtype, w.dtype) == x.dtype else _rounded(x, w)


def _contract(x: Array, w: Array, axis: int) -> Array:
    """Sum over the last axis of ``x`` and the given one of ``w``."""
    dims, dtype = (((x.ndim - 1,), (axis,)), ((), ())), narrower(x.dtype, w.dtype)
    product = jax.lax.dot_general(x.astype(dtype), w.astype(dtype), dims, preferred_element_type=jnp.float32)
    return product.astype(x.dtype)


def _few_rows(x: Array, w_FD: Array) -> Array:
    """``x @ w`` as the transpose of ``w^T @ x^T``; but for the barrier XLA would swap the operands again."""
    dims, dtype, rows = (((1,), (1,)), ((), ())), narrower(x.dtype, w_FD.dtype), x.reshape(-1, x.shape[-1])
    y_FN = jax.lax.dot_general(w_FD.astype(dtype), rows.astype(dtype), dims, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(y_FN).T.reshape(*x.shape[:-1], len(w_FD)).astype(x.dtype)


def narrower(a: jnp.dtype, b: jnp.dtype) -> jnp.dtype:
    """The one of two floating types with fewer bits, the first of equals.

    >>> print(narrower(jnp.dtype("float32"), jnp.dtype("bfloat16")))
    bfloat16
    """
    return a if a.itemsize <= b.itemsize else b


def _product(w: QTensor | Array, x: Array, axis: int) -> Array:
    if not isinstance(w, QTensor):
        return _contract(x, w, axis)
    apart = functools.partial(_dequantized, axis=axis)
    fits = fusible(w) and narrower(x.dtype, w.dtype) == x.dtype  # the kernel multiplies in the type of its input
    if not (_kernels_here() and fits and 0 < x.size <= MOST_ROWS * x.shape[-1]):
        return apart(w, x)
    return jax.lax.platform_dependent(w, x, cuda=_FUSED[axis], default=apart)


def _dequantized(w: QTensor, x: Array, axis: int) -> Array:
    return _contract(x, dequantize(_after(w, x), narrower(x.dtype, w.dtype)), axis)


def _kernels_here() -> bool:
    """Whether this process computes on one GPU.  What it lowers for another platform has no kernels either way."""
    return jax.default_backend() == "gpu" and jax.device_count() == 1


def _fused(axis: int) -> Callable[[QTensor, Array], Array]:
    """The fused product; inputs that a vmap puts before the rows are more rows, and stacks of weights dequantize."""

    @jax.custom_batching.custom_vmap
    def product(w: QTensor, x: Array) -> Array:
        return (fused_transposed if axis else fused_matmul)(x, w)

    @product.def_vmap
    def mapped(size: int, batched: tuple[PyTree, bool], w: QTensor, x: Array) -> tuple[Array, bool]:
        stacked = any(jax.tree.leaves(batched[0]))
        if not stacked and x.size <= MOST_ROWS * x.shape[-1]:
            return product(w, x), True
        axes = (jax.tree.map(lambda yes: 0 if yes else None, batched[0]), 0 if batched[1] else None)
        return jax.vmap(functools.partial(_dequantized, axis=axis), in_axes=axes)(w, x), True

    return product


_FUSED = (_fused(0), _fused(1))


def _either(w: QTensor | MixedLayer, x: Array, axis: int) -> Array:
    product = functools.partial(_product, axis=axis)
    return choose(w, product, x) if isinstance(w, MixedLayer) else product(w, x)


def _after(w: QTensor, x: Array) -> QTensor:
    """Dequantize neither ahead of need, nor once for both passes, nor outside a loop over tokens."""
    return w.replace(codes=_codes_after(w.codes, x))  # type: ignore[attr-defined]


@jax.custom_batching.custom_vmap
def _codes_after(codes: Array, x: Array) -> Array:
    return after(codes, x)


@_codes_after.def_vmap
def _codes_after_any(size: int, batched: list[bool], codes: Array, x: Array) -> tuple[Array, bool]:
    # A weight shared by a batch of inputs is still dequantized once.
    return _codes_after(codes, x[0] if batched[1] else x), batched[0]


@jax.custom_vjp
def _frozen(x: Array, w: PyTree) -> Array:
    return _either(w, x, 0)


def _forward(x: Array, w: PyTree) -> tuple[Array, PyTree]:
    return _frozen(x, w), w


def _backward(w: PyTree, dy: Array) -> tuple[Array, None]:
    return _either(w, dy, 1), None


_frozen.defvjp(_forward, _backward)


@jax.custom_vjp
def _rounded(x: Array, w: Array) -> Array:
    """A dense product of which only the operands are rounded; the derivative of a cast would round ``dx`` too."""
    return _contract(x, w, 0)


def _rounded_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, w = kept
    rows = tuple(range(x.ndim - 1))
    dw = jax.lax.dot_general(x.astype(w.dtype), dy.astype(w.dtype), ((rows, rows), ((), ())))
    return _contract(dy, w, 1), dw


_rounded.defvjp(lambda x, w: (_contract(x, w, 0), (x, w)), _rounded_backward)
