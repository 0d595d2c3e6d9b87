"""A layer's weights and adapters, brought together over ``fsdp`` where they are used."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lqlm.layout import FSDP, TENSOR, axis_sizes
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.matmul import matmul
from lqlm.quant.mixed import MixedLayer
from lqlm.quant.qtensor import QTensor
from lqlm.sharding.rules import Heads, array_spec, cuts, head_unit, is_quantized, rule_of
from lqlm.types import Array, PyTree


def gathered(layer: PyTree, cfg: Heads) -> PyTree:
    """One layer's dense weights or adapters, brought together over ``fsdp``; quantized maps stay, see :func:`product`.

    Args:
        layer: ``{name of a map: weight or adapter}``, without the axis of layers.
        cfg: of the model.
    """
    if axis_sizes().get(FSDP, 1) == 1:
        return layer
    sizes = {**axis_sizes(), FSDP: 1}

    def one(path: Any, x: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not isinstance(x, jax.Array) or FSDP not in str(rule_of(name)):
            return x
        heads = head_unit(name, cfg)
        stack = jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*array_spec(name, stack, sizes, heads)[1:]))

    known = lambda x: isinstance(x, QTensor | MixedLayer)  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, layer, is_leaf=known)


def product(x: Array, w: Any, name: str) -> Array:
    """``x @ w`` for one layer's map; on a mesh the codes of a quantized one are brought together first, over ``fsdp``.

    What travels is 4 bits a weight, in both passes: what is kept between them are each device's own codes.

    Args:
        x: [..., in].
        w: one layer's weight.
        name: of the map.
    """
    if not is_quantized(w) or axis_sizes().get(FSDP, 1) == 1:
        return matmul(x, w)
    return _gathered_product(x, w, name)


def _gathered(w: QTensor, name: str) -> QTensor:
    """Whole over ``fsdp``, split over ``tensor``; its 8-bit maxima are small and come whole."""
    flat = jax.tree.map(lambda x: PartitionSpec(), w)
    matrix = PartitionSpec(*cuts(name, w, {TENSOR: axis_sizes().get(TENSOR, 1)}, 1))
    if w.rows:
        maxima = flat.maxima if isinstance(w.maxima, DoubleQuantized) else matrix
        flat = w.replace(codes=matrix, maxima=maxima, shift=None if w.shift is None else matrix)  # type: ignore[attr-defined]
    return jax.tree.map(jax.lax.with_sharding_constraint, w, flat)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gathered_product(x: Array, w: QTensor, name: str) -> Array:
    return matmul(x, _gathered(w, name))


def _forward(x: Array, w: QTensor, name: str) -> tuple[Array, QTensor]:
    return _gathered_product(x, w, name), w


def _backward(name: str, w: QTensor, dy: Array) -> tuple[Array, None]:
    x = jnp.zeros((*dy.shape[:-1], w.shape[0]), dy.dtype)
    _, pull = jax.vjp(lambda x: matmul(x, _gathered(w, name)), x)
    return pull(dy)[0], None


_gathered_product.defvjp(_forward, _backward)
