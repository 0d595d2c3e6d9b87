"""Optimizer state that lives in host memory between updates.

QLoRA (arXiv:2305.14314) pages Adam's moments out of the accelerator.  Here the state carries its memory kind in
its type (`jax.memory.Space`): an update brings it in, computes, and sends it out, inside one jitted step.  The CPU
backend has the same two memory kinds, so that the path is tested without an accelerator; there the moves cost nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import optax

from lqlm.types import Array, PyTree

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device


class PagedState(NamedTuple):
    """State of the wrapped transformation, of the same structure, most of it in host memory."""

    inner: PyTree


def paged(
    inner: optax.GradientTransformation, *, leafwise: bool = True, min_size: int = 4096
) -> optax.GradientTransformationExtraArgs:
    """Keep the state of ``inner`` in host memory; the updates are bit-equal to those of ``inner`` itself.

    Leafwise, the leaves are updated one after the other, so that the moments of one leaf only are on the device at a
    time.  The order alone differs: an ``inner`` that looks across leaves stays right, but brings in what it looks at.

    Its ``update`` takes an extra argument ``finite`` (bool []): where it is false the state stays as it was, and the
    caller must not apply the updates.  Other extra arguments are passed on.

    Args:
      inner: the transformation whose state is paged, such as ``optax.adamw(...)``.
      leafwise: one leaf at a time; false to leave the order to the compiler.
      min_size: arrays of fewer elements stay on the device (step counts, and leaves not worth a transfer).

    Returns:
      An optax transformation with `PagedState`, to be used alone or in any chain.

    >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), paged(optax.adamw(1e-3)))
    >>> optimizer.init(jnp.zeros((64, 64)))[1].inner[0].mu.sharding.memory_kind
    'pinned_host'
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PagedState:
        closed, shape = jax.make_jaxpr(inner.init, return_shape=True)(params)
        leaves = jax.tree.leaves(params)

        def alone(out: Any) -> Array:
            return _move(jnp.array(_lazily(closed, [], leaves)(out)), HOST, min_size)

        # Each array is computed by itself and sent out at once: never is the whole state on the device.
        return PagedState(jax.tree.unflatten(jax.tree.structure(shape), [alone(out) for out in closed.jaxpr.outvars]))

    def update(
        updates: PyTree, state: PagedState, params: PyTree = None, *, finite: Array | None = None, **extra_args: Any
    ) -> tuple[PyTree, PagedState]:
        def plain(old: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
            return inner.update(grads, old, params, **extra_args)

        def keep(new: Array, old: Array) -> Array:
            return new if finite is None else jnp.where(finite, new, old)

        if leafwise:
            new_updates, new = _leaf_by_leaf(plain, keep, state.inner, updates, min_size)
        else:
            old = _move(state.inner, DEVICE, min_size)
            new_updates, new = plain(old, updates)
            new = _move(jax.tree.map(keep, new, old), HOST, min_size)
        return new_updates, PagedState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def _leaf_by_leaf(
    plain: Callable, keep: Callable, state: PyTree, grads: PyTree, min_size: int
) -> tuple[PyTree, PyTree]:
    """Evaluate ``plain(state, grads)`` leaf by leaf; a leaf's state comes in when the one before has gone out.

    ``keep(new, old)`` decides what becomes of the state, and the updates are computed from that.  Were they computed
    from the new state itself, XLA would need the old one for both, and copy it where the new one takes its place.

    ``plain`` is traced once, and its equations are evaluated in another order.  To call the inner update on each leaf
    would be simpler, but XLA divides by a bias correction that many leaves share and multiplies with the reciprocal of
    one that a single leaf uses: the last bits would differ.  For the same reason the updates stay out of the barrier:
    they could not be fused with their addition to the parameters.
    """
    outside, treedef = jax.tree.flatten(state)
    inside = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=jax.typeof(x).weak_type) for x in outside]
    closed, shapes = jax.make_jaxpr(plain, return_shape=True)(jax.tree.unflatten(treedef, inside), grads)
    updates, update_treedef = jax.tree.flatten(shapes[0])
    sent: dict[int, Array] = {}  # what has gone out, by its place in the state
    last: list[int] = []  # the part of it that went out last: what comes in waits for it
    touched: list[int] = []  # what has come in for the present leaf

    def bring(k: int) -> Array:
        touched.append(k)
        if not _is_paged(outside[k], min_size):
            return outside[k]
        x, *gone = jax.lax.optimization_barrier((outside[k], *(sent[j] for j in last)))
        sent.update(zip(last, gone))
        return jax.device_put(x, DEVICE)

    new_updates, old_state, new_state = [], closed.jaxpr.invars, closed.jaxpr.outvars[len(updates) :]
    place = {var: k for k, var in enumerate(new_state) if not isinstance(var, jax.extend.core.Literal)}
    settled: set[int] = set()

    def settle(var: Any, new: Array) -> Array:
        if var not in place:
            return new
        settled.add(place[var])
        return keep(new, read(old_state[place[var]]))

    def final(k: int) -> Array:
        new = read(new_state[k])
        return new if k in settled else keep(new, read(old_state[k]))  # a constant, or another place's

    inputs = [functools.partial(bring, k) for k in range(len(outside))]
    read = _lazily(closed, inputs, jax.tree.leaves(grads), settle)
    for out in closed.jaxpr.outvars[: len(updates)]:
        new_updates.append(read(out))
        present = [k for k in touched if _is_paged(outside[k], min_size)]
        sent.update({k: jax.device_put(final(k), HOST) for k in present})
        last, touched = present or last, []
    result = [sent[k] if k in sent else _move(final(k), HOST, min_size) for k in range(len(new_state))]
    return jax.tree.unflatten(update_treedef, new_updates), jax.tree.unflatten(treedef, result)


def _lazily(
    closed: Any,
    inputs: Sequence[Callable[[], Array]],
    others: Sequence[Array] = (),
    settle: Callable[[Any, Array], Array] = lambda var, value: value,
) -> Callable[[Any], Array]:
    """Give a function that computes a variable of a jaxpr, with what it depends on and nothing else.

    Args:
      closed: a closed jaxpr.
      inputs: its first arguments, as functions that are called when the argument is first read.
      others: its further arguments.
      settle: is given each computed variable and its value, and returns the value that stands for it from then on.

    Returns:
      A function from a variable of the jaxpr to its value; it computes no equation twice.
    """
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars[len(inputs) :], others))
    fetch = dict(zip(jaxpr.invars, inputs))
    producer = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    called: dict[int, Callable[[Any], Array]] = {}

    def read(var: Any) -> Array:
        if isinstance(var, jax.extend.core.Literal):
            return var.val
        if var not in known and var in fetch:
            known[var] = fetch[var]()
        elif var not in known:
            found = compute(producer[var], var)
            known.update({out: settle(out, value) for out, value in found.items()})
        return known[var]

    def compute(eqn: Any, var: Any) -> dict[Any, Array]:
        if eqn.primitive.name == "jit":  # it may take many leaves at once: look into it, output by output
            inner = eqn.params["jaxpr"]
            arguments = [functools.partial(read, v) for v in eqn.invars]
            look = called.setdefault(id(eqn), _lazily(inner, arguments))
            return {var: look(inner.jaxpr.outvars[eqn.outvars.index(var)])}
        needed = [v for v in eqn.invars if not isinstance(v, jax.extend.core.Literal)]
        single = jaxpr.replace(eqns=[eqn], constvars=[], invars=needed, outvars=eqn.outvars)
        return dict(zip(eqn.outvars, jax.core.eval_jaxpr(single, [], *[read(v) for v in needed])))

    return read


def _is_paged(x: Array | jax.ShapeDtypeStruct, min_size: int) -> bool:
    return x.size >= min_size


def _move(state: PyTree, space: Any, min_size: int) -> PyTree:
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.size >= min_size else x, state)


def abstract_state(
    optimizer: optax.GradientTransformation, params: PyTree, device: jax.Device, *, min_size: int = 4096
) -> PyTree:
    """Shapes of ``optimizer.init(params)`` with their memory kinds, to compile a step ahead of time.

    ``jax.eval_shape`` alone forgets the memory kind, and the step would be compiled for a state on the device.

    Args:
      optimizer: a chain with `paged` in it.
      params: a tree of arrays or of abstract arrays.
      device: the device to compile for.
      min_size: that of `paged`.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    # Of all shardings it is NamedSharding whose memory kind reaches the type of a traced argument (jax 0.10).
    mesh = jax.sharding.Mesh([device], ("device",))
    kinds = {True: "pinned_host", False: device.default_memory().kind}

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(), memory_kind=kinds[x.size >= min_size])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, jax.eval_shape(optimizer.init, params))
