"""What the backward pass finds, and what it computes again: policies by name.

* ``none``: what the backward passes ask for is kept; attention and gate ask for their inputs only.
* ``full``: a layer's input is kept, all else computed again.
* ``dots``: results of matrix products are kept, what lies between them is computed again.
* ``projections``: results of products with weights are kept, those of queries with keys are not.
* ``offload``: as ``full``, and the layers' inputs wait in host memory.

``none`` keeps less than ``dots`` and ``projections`` where a layer's attention is most of what they would keep.

For quantized bases ``full`` is a scan that keeps one array per layer for the backward pass, the layer's input.
``jax.checkpoint`` inside ``lax.scan`` means the same.  But XLA's CPU backend cannot slice or fill a stack of 16-bit
floats: it turns the whole stack into float32, before the loop (three times the memory) or at every layer.  So inputs
and gradients are stacked here as their bits, and adapters are sliced where the loop cannot be seen into.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from lqlm.errors import UserError
from lqlm.order import never
from lqlm.types import Array, PyTree

Remat = Literal["none", "full", "dots", "projections", "offload"]
_INPUT = "layer_input"
_POLICIES: dict[str, Any] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "projections": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def checkpointed(step: Callable, remat: Remat) -> Callable:
    """The body of a scan over layers, ``(carry, slices) -> (carry, out)``, under the policy of that name.

    Raises:
        UserError: for an unknown name.
    """
    if remat == "none":
        return step
    if remat not in _POLICIES:
        raise UserError(f"remat {remat!r} is unknown: use none, {', '.join(_POLICIES)}")

    def named(carry: tuple[Array, Any], slices: PyTree) -> tuple[Any, Any]:
        return step((checkpoint_name(carry[0], _INPUT), *carry[1:]), slices)

    return jax.checkpoint(named, policy=_POLICIES[remat], prevent_cse=False)


def remat_scan(
    body: Callable[..., Array], x: Array, trained: PyTree, frozen: PyTree, shared: PyTree | None = None
) -> Array:
    """``x = body(x, trained[l], frozen[l], shared)`` for l = 0 ... L - 1, with a backward pass that computes again.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174, with a segment for each layer.

    Args:
        body: one layer; it may close over arrays, and gradients flow to those too.  Without ``shared`` it takes three
            arguments.
        x: the first layer's input, of the shape and dtype of every layer's output.
        trained: floating leaves ``[L, ...]``.
        frozen: leaves ``[L, ...]`` of any type; they get no gradient.
        shared: the same for every layer, of any type; it gets no gradient.

    Returns:
        The last layer's output.
    """
    rest = () if shared is None else (shared,)
    closed = jax.make_jaxpr(body)(x, *jax.tree.map(_one_layer, (trained, frozen)), *rest)
    order: Any = np.arange(jax.tree.leaves((trained, frozen))[0].shape[0], dtype=np.int32)

    def layer(consts: list[Array], *arguments: PyTree) -> Array:
        return jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(arguments))[0]

    def forward(consts: list[Array], x: Array, trained: PyTree, frozen: PyTree, *rest: PyTree) -> tuple[Array, Any]:
        def step(x: Array, slices: tuple[Array, PyTree]) -> tuple[Array, Array]:
            return layer(consts, x, _take(trained, slices[0], x), slices[1], *rest), _bits(x)

        last, inputs = jax.lax.scan(step, x, (order, frozen))
        return last, (consts, inputs, trained, frozen, *rest)

    def backward(kept: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
        consts, inputs, trained, frozen, *rest = kept
        floating = [jnp.issubdtype(c.dtype, jnp.floating) for c in consts]

        def step(carry: tuple[Array, list[Array]], slices: PyTree) -> tuple[tuple[Array, list[Array]], PyTree]:
            dy, totals = carry
            x, weights = _floats(slices[1], dy), _take(trained, slices[0], dy)

            def again(some: list[Array], x: Array, weights: PyTree) -> Array:
                return layer(_replace(consts, floating, some), x, weights, slices[2], *rest)

            _, pull = jax.vjp(again, _choose(consts, floating), x, weights)
            grads, dx, dweights = pull(dy)
            return (dx, jax.tree.map(jnp.add, totals, grads)), _bits(dweights)

        zeros = jax.tree.map(jnp.zeros_like, _choose(consts, floating))
        (dx, totals), dtrained = jax.lax.scan(step, (dy, zeros), (order, inputs, frozen), reverse=True)
        return (
            _replace([None] * len(consts), floating, totals),
            dx,
            _floats(dtrained, trained),
            None,
            *[None] * len(rest),
        )

    scan = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    scan.defvjp(forward, backward)
    return scan(closed.consts, x, trained, frozen, *rest)


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
