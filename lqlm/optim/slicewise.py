"""An optimizer's update, layer by layer: of a stacked leaf the state of one layer is on the device at a time.

Each stacked leaf is scanned over its leading axis.  The state is carried through the loop in host memory and changed in
place: a layer's part is sliced out of it, brought in, updated, and written back.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.optim.leafwise import leaf_by_leaf
from lqlm.optim.placement import HOST, to_device, to_host
from lqlm.order import after, never
from lqlm.types import Array, PyTree

Named = dict[str, Any]
"""Leaves by their path."""


class Transformation(NamedTuple):
    """What is paged: ``init(params) -> state``, ``update(state, grads, params) -> (updates, state)``."""

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def slice_by_slice(
    inner: Transformation,
    keep: Callable[[Array, Array], Array],
    state: PyTree,
    grads: PyTree,
    params: PyTree,
    hosted: Sequence[bool],
) -> tuple[PyTree, PyTree]:
    """Evaluate ``inner.update(state, grads, params)`` for each layer of each leaf with three axes or more.

    Leaves of fewer axes are updated first, one by one, together with what belongs to no leaf (the count).  The state of
    a leaf is recognized by what ``init`` makes of this leaf alone, that of a layer by what it makes of one layer.

    The arithmetic is that of ``inner``, but in a program of its own: where the compiler turns a division into a product
    with a reciprocal, or contracts a product and a sum, for all leaves at once and not here, the last bit differs.

    Args:
      inner: elementwise along the layers.
      keep: ``(new, old)`` -> what becomes of the state.
      state: of all leaves.
      grads: gradients, stacked ``[L, ...]``.
      params: parameters, or None.
      hosted: for each leaf of ``state`` whether it lies on the host.

    Returns:
      ``(updates, state)``.

    Raises:
      UserError: where a stacked leaf has a state that is not an array per layer.
    """
    tree, leaves = _Leaves(jax.tree.structure(grads)), jax.tree.leaves(grads)
    values = None if params is None else tree.parts(params)
    stacked = [k for k, x in enumerate(leaves) if x.ndim >= 3 and x.size]
    named = _named(state)
    flags = dict(zip(named, hosted, strict=True))

    def rest_of(arrays: Sequence[Any] | None) -> PyTree:
        return None if arrays is None else tree.only({k: x for k, x in enumerate(arrays) if k not in stacked})

    old = _fill(jax.eval_shape(inner.init, rest_of(leaves)), named)
    places = [flags[path] for path in _named(old)]
    updates, new = leaf_by_leaf(
        lambda state, grads: inner.update(state, grads, rest_of(values)), keep, old, rest_of(leaves), places
    )
    outs, named_new = tree.parts(updates), named | _named(new)
    common = {path: named[path] for path in _named(jax.eval_shape(inner.init, tree.only({})))}
    before: Any = leaves[stacked[0]] if stacked else None  # nothing is allocated before there are gradients
    for k in stacked:
        layer = jax.ShapeDtypeStruct((1, *leaves[k].shape[1:]), leaves[k].dtype)
        leaf = _Leaf(inner, tree, k, jax.eval_shape(inner.init, tree.only({k: layer})), common)
        outs[k], own = leaf.scan(named, flags, keep, leaves[k], None if values is None else values[k], before)
        before, named_new = outs[k], named_new | own
    return tree.whole(outs), _fill(state, named_new)


class _Leaves(NamedTuple):
    """A tree of parameters, some of which are left out: None takes their place."""

    structure: Any

    def only(self, arrays: dict[int, Any]) -> PyTree:
        return self.whole([arrays.get(k) for k in range(self.structure.num_leaves)])

    def whole(self, arrays: Sequence[Any]) -> PyTree:
        return self.structure.unflatten(arrays)

    def parts(self, tree: PyTree) -> list[Any]:
        return self.structure.flatten_up_to(tree)


class _Leaf(NamedTuple):
    """One stacked parameter."""

    inner: Transformation
    tree: _Leaves
    k: int  # its number in the tree
    one: PyTree  # shapes of the state of one of its layers, with a leading axis of 1
    common: Named  # the state that belongs to no parameter

    def own(self, named: Named, layers: int) -> Named:
        """The arrays ``[L, ...]`` of its state."""
        parts = {path: x for path, x in _named(self.one).items() if path not in self.common}
        for path, part in parts.items():
            found = named[path].shape
            if part.shape[:1] != (1,) or found != (layers, *part.shape[1:]):
                raise UserError(
                    f"paged: mode 'slice' needs a state per layer, but state{path} is {list(found)} for {layers} "
                    f"layers and {list(part.shape)} for one: use mode 'leaf'"
                )
        return {path: named[path] for path in parts}

    def update(self, old: Named, grad: Array, value: Array | None) -> tuple[Array, Named]:
        """Update ``[1, ...]`` of one layer, and its new state."""
        params = None if value is None else self.tree.only({self.k: value[None]})
        grads = self.tree.only({self.k: grad[None]})
        out, new = self.inner.update(_fill(self.one, self.common | old), grads, params)
        return self.tree.parts(out)[self.k], _named(new)

    def scan(
        self, named: Named, flags: dict[str, bool], keep: Callable, grad: Array, value: Array | None, before: Array
    ) -> tuple[Array, Named]:
        """Update all layers, after ``before`` has been computed."""

        def body(carry: tuple[Array, Named], x: Any) -> tuple[tuple[Array, Named], None]:
            outs, state = carry
            layer, *arrays = x
            old = {p: to_device(jax.lax.dynamic_slice_in_dim(s, layer, 1), flags[p]) for p, s in state.items()}
            out, new = self.update(old, *arrays)
            # Written back when the update has been computed: while anything may still read the old state, the CPU
            # backend (where bringing in is no copy) would copy all layers of it in every round.
            new = after({p: keep(new[p], x) for p, x in old.items()}, out)
            state = {p: _write(s, to_host(new[p], flags[p]), layer) for p, s in state.items()}
            return (_write(outs, out, layer), state), None

        state = {p: _typed(x, flags[p]) for p, x in self.own(named, grad.shape[0]).items()}
        out, _ = jax.eval_shape(self.update, {p: _named(self.one)[p] for p in state}, *_layer((grad, value)))
        # The compiler must not see that this is zero: it would make the arrays of all parameters at the start.
        outs = jnp.broadcast_to(never(before).astype(out.dtype), grad.shape)
        (outs, state), _ = jax.lax.scan(body, (outs, state), (jnp.arange(grad.shape[0]), grad, value))
        return outs, state


def _write(stack: Array, layer: Array, index: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(stack, layer, index, 0)


def _layer(tree: PyTree) -> PyTree:
    """Shapes without the axis of layers."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)


def _typed(x: Array, hosted: bool) -> Array:
    """``x`` with its memory said in its type, which the carry of a loop must keep and an argument may lack."""
    return to_host(x) if hosted and jax.typeof(x).memory_space != HOST else x


def _named(tree: PyTree) -> Named:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in flat}


def _fill(like: PyTree, named: Named) -> PyTree:
    """A tree of this structure, its leaves taken by their paths."""
    return jax.tree.unflatten(jax.tree.structure(like), [named[path] for path in _named(like)])
