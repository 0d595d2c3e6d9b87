"""A scan over layers that keeps one array per layer for the backward pass: the layer's input.

``jax.checkpoint`` inside ``lax.scan`` means the same.  But XLA's CPU backend cannot slice or fill a stack of 16-bit
floats: it turns the whole stack into float32, before the loop (three times the memory) or at every layer.  So inputs
and gradients are stacked here as their bits, and adapters are sliced where the loop cannot be seen into.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.order import never
from lqlm.types import Array, PyTree


def remat_scan(body: Callable[[Array, PyTree, PyTree], Array], x: Array, trained: PyTree, frozen: PyTree) -> Array:
    """``x = body(x, trained[l], frozen[l])`` for l = 0 ... L - 1, each layer computed again in the backward pass.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174, with a segment for each layer.

    Args:
        body: one layer; it may close over arrays, and gradients flow to those too.
        x: the first layer's input, of the shape and dtype of every layer's output.
        trained: floating leaves ``[L, ...]``.
        frozen: leaves ``[L, ...]`` of any type; they get no gradient.

    Returns:
        The last layer's output.
    """
    closed = jax.make_jaxpr(body)(x, *jax.tree.map(_one_layer, (trained, frozen)))
    order: Any = np.arange(jax.tree.leaves((trained, frozen))[0].shape[0], dtype=np.int32)

    def layer(consts: list[Array], *arguments: PyTree) -> Array:
        return jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(arguments))[0]

    def forward(consts: list[Array], x: Array, trained: PyTree, frozen: PyTree) -> tuple[Array, Any]:
        def step(x: Array, slices: tuple[Array, PyTree]) -> tuple[Array, Array]:
            return layer(consts, x, _take(trained, slices[0], x), slices[1]), _bits(x)

        last, inputs = jax.lax.scan(step, x, (order, frozen))
        return last, (consts, inputs, trained, frozen)

    def backward(kept: tuple[list[Array], Array, PyTree, PyTree], dy: Array) -> tuple[Any, ...]:
        consts, inputs, trained, frozen = kept
        floating = [jnp.issubdtype(c.dtype, jnp.floating) for c in consts]

        def step(carry: tuple[Array, list[Array]], slices: PyTree) -> tuple[tuple[Array, list[Array]], PyTree]:
            dy, totals = carry
            x, weights = _floats(slices[1], dy), _take(trained, slices[0], dy)
            again = lambda some, x, weights: layer(_replace(consts, floating, some), x, weights, slices[2])  # noqa: E731
            _, pull = jax.vjp(again, _choose(consts, floating), x, weights)
            grads, dx, dweights = pull(dy)
            return (dx, jax.tree.map(jnp.add, totals, grads)), _bits(dweights)

        zeros = jax.tree.map(jnp.zeros_like, _choose(consts, floating))
        (dx, totals), dtrained = jax.lax.scan(step, (dy, zeros), (order, inputs, frozen), reverse=True)
        return _replace([None] * len(consts), floating, totals), dx, _floats(dtrained, trained), None

    scan = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    scan.defvjp(forward, backward)
    return scan(closed.consts, x, trained, frozen)


def _one_layer(stack: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)


def _take(stacks: PyTree, index: Array, x: Array) -> PyTree:
    """Slice ``index`` of each stack; for the CPU inside a branch, from which the widening to float32 is not lifted."""

    def plain(stacks: PyTree, index: Array, x: Array) -> PyTree:
        return jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, index, keepdims=False), stacks)

    def hidden(stacks: PyTree, index: Array, x: Array) -> PyTree:
        nothing = lambda *_: jax.tree.map(lambda stack: jnp.zeros(stack.shape[1:], stack.dtype), stacks)  # noqa: E731
        return jax.lax.cond(never(x), nothing, plain, stacks, index, x)

    return jax.lax.platform_dependent(stacks, index, x, cpu=hidden, default=plain)


def _choose(values: list, chosen: list[bool]) -> list:
    return [value for value, yes in zip(values, chosen) if yes]


def _replace(values: list, chosen: list[bool], new: list) -> list:
    rest = iter(new)
    return [next(rest) if yes else value for value, yes in zip(values, chosen)]


def _bits(tree: PyTree) -> PyTree:
    """The 16-bit floats of a tree as uint16, all else as it is."""
    short = lambda x: jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2  # noqa: E731
    return jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, jnp.uint16) if short(x) else x, tree)


def _floats(bits: PyTree, like: PyTree) -> PyTree:
    """Undo :func:`_bits`, with the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else jax.lax.bitcast_convert_type(x, y.dtype), bits, like)
