"""An optimizer's update, leaf by leaf: the state of one leaf comes in, is updated, and goes out before the next."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core

from lqlm.optim.placement import to_device, to_host
from lqlm.types import Array, PyTree


def leaf_by_leaf(
    plain: Callable, keep: Callable, state: PyTree, grads: PyTree, hosted: Sequence[bool]
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
        if not hosted[k]:
            return outside[k]
        x, *gone = jax.lax.optimization_barrier((outside[k], *(sent[j] for j in last)))
        sent.update(zip(last, gone))
        return to_device(x)

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
    read = lazily(closed, inputs, jax.tree.leaves(grads), settle)
    for out in closed.jaxpr.outvars[: len(updates)]:
        new_updates.append(read(out))
        present = [k for k in touched if hosted[k]]
        sent.update({k: to_host(final(k)) for k in present})
        last, touched = present or last, []
    result = [sent[k] if k in sent else to_host(final(k), hosted[k]) for k in range(len(new_state))]
    return jax.tree.unflatten(update_treedef, new_updates), jax.tree.unflatten(treedef, result)


def lazily(
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
            look = called.setdefault(id(eqn), lazily(inner, arguments))
            return {var: look(inner.jaxpr.outvars[eqn.outvars.index(var)])}
        needed = [v for v in eqn.invars if not isinstance(v, jax.extend.core.Literal)]
        single = jaxpr.replace(eqns=[eqn], constvars=[], invars=needed, outvars=eqn.outvars)
        return dict(zip(eqn.outvars, jax.core.eval_jaxpr(single, [], *[read(v) for v in needed])))

    return read
