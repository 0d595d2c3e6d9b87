"""Multiplication by a weight that may be quantized, layer by layer in a format of its own."""

import functools

import jax
import jax.numpy as jnp

from lqlm.order import after
from lqlm.quant.mixed import MixedLayer, choose
from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.types import Array, PyTree


def matmul(x: Array, w: QTensor | MixedLayer | Array) -> Array:
    """``x @ w`` in the dtype of ``x``, with sums in float32.

    For a quantized ``w``, ``y = x dequant(w)`` and ``dx = dy dequant(w)^T``, dequantized again in the backward pass:
    what is kept between the passes are the codes, and ``w`` gets no gradient.  Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314, equation 5.

    Args:
        x: floating [..., in].
        w: one matrix [in, out]; stacked layers are sliced by a scan (or mapped by vmap) first.

    Returns:
        The dtype of ``x``, [..., out].
    """
    return _frozen(x, w) if isinstance(w, QTensor | MixedLayer) else _contract(x, w.astype(x.dtype), 0)


def _contract(x: Array, w: Array, axis: int) -> Array:
    """Sum over the last axis of ``x`` and the given one of ``w``."""
    dims = (((x.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(x, w, dims, preferred_element_type=jnp.float32).astype(x.dtype)


def _product(w: QTensor | Array, x: Array, axis: int) -> Array:
    return _contract(x, dequantize(_after(w, x), x.dtype) if isinstance(w, QTensor) else w.astype(x.dtype), axis)


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
