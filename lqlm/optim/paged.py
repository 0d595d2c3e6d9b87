"""Optimizer state that lives in host memory between updates.

QLoRA (arXiv:2305.14314) pages Adam's moments out of the accelerator.  Here the state carries its memory kind in
its type (`jax.memory.Space`): an update brings it in, computes, and sends it out, inside one jitted step.  The CPU
backend has the same two memory kinds, so that the path is tested without an accelerator; there the moves cost nothing.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from lqlm.errors import UserError
from lqlm.optim.leafwise import lazily, leaf_by_leaf
from lqlm.optim.placement import HOST, choose_hosted, to_device, to_host
from lqlm.optim.slicewise import Transformation, slice_by_slice
from lqlm.types import Array, PyTree

Mode = Literal["whole", "leaf", "slice"]


class PagedState(NamedTuple):
    """State of the wrapped transformation, of the same structure, most of it in host memory."""

    inner: PyTree


def paged(
    inner: optax.GradientTransformation, *, mode: Mode = "leaf", offload: float = 1.0, min_size: int = 4096
) -> optax.GradientTransformationExtraArgs:
    """Keep the state of ``inner`` in host memory.

    What is on the device at a time, beside what is not paged, is

    - ``whole``: the state of all leaves, in an order that the compiler chooses;
    - ``leaf``: the state of one leaf.  The order alone differs: an ``inner`` that looks across leaves stays right, but
      brings in what it looks at;
    - ``slice``: of leaves stacked over layers (three axes or more) the state of one layer, of others that of one leaf.
      ``inner`` must be elementwise along the axis of layers and must not look across leaves, as Adam in 32 and in 8
      bits; what normalizes over a leaf (LAMB, Adafactor) or over the tree (clipping) belongs in front of it.

    The updates of ``whole`` and ``leaf`` are bit-equal to those of ``inner``, as are those of ``slice`` in exact
    arithmetic; see `lqlm.optim.slicewise` for the last bit.

    Its ``update`` takes an extra argument ``finite`` (bool []): where it is false the state stays as it was, and the
    caller must not apply the updates.  Other extra arguments are passed on.

    Args:
      inner: the transformation whose state is paged, such as ``optax.adamw(...)`` or `lqlm.optim.adam8.adamw8bit`.
      mode: how much comes in at once.
      offload: share of the state's bytes that is kept on the host, 0 to 1; the largest arrays go first.
      min_size: arrays of fewer elements stay on the device (step counts, and leaves not worth a transfer).

    Returns:
      An optax transformation with `PagedState`, to be used alone or in any chain.

    Raises:
      UserError: on an unknown mode, or a share outside of [0, 1].

    >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), paged(optax.adamw(1e-3)))
    >>> optimizer.init(jnp.zeros((64, 64)))[1].inner[0].mu.sharding.memory_kind
    'pinned_host'
    """
    if mode not in get_args(Mode):
        raise UserError(f"paged: unknown mode {mode!r}: use 'whole', 'leaf' or 'slice'")
    if not 0 <= offload <= 1:
        raise UserError(f"paged: offload {offload}: take a share from 0 to 1")
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PagedState:
        closed, shape = jax.make_jaxpr(inner.init, return_shape=True)(params)
        leaves, variables = jax.tree.leaves(params), closed.jaxpr.outvars
        hosted = choose_hosted(closed.out_avals, offload, min_size)
        # Each array is computed by itself and sent out at once: never is the whole state on the device.
        arrays = [to_host(jnp.array(lazily(closed, [], leaves)(x)), out) for x, out in zip(variables, hosted)]
        return PagedState(jax.tree.unflatten(jax.tree.structure(shape), arrays))

    def update(
        updates: PyTree, state: PagedState, params: PyTree = None, *, finite: Array | None = None, **extra_args: Any
    ) -> tuple[PyTree, PagedState]:
        def step(old: PyTree, grads: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
            return inner.update(grads, old, params, **extra_args)

        def keep(new: Array, old: Array) -> Array:
            return new if finite is None else jnp.where(finite, new, old)

        hosted = choose_hosted(jax.tree.leaves(state.inner), offload, min_size)
        if mode == "slice":
            new_updates, new = slice_by_slice(
                Transformation(inner.init, step), keep, state.inner, updates, params, hosted
            )
        elif mode == "leaf":
            plain = lambda old, grads: step(old, grads, params)  # noqa: E731
            new_updates, new = leaf_by_leaf(plain, keep, state.inner, updates, hosted)
        else:
            flags = jax.tree.unflatten(jax.tree.structure(state.inner), hosted)
            old = jax.tree.map(to_device, state.inner, flags)
            new_updates, new = step(old, updates, params)
            new = jax.tree.map(to_host, jax.tree.map(keep, new, old), flags)
        return new_updates, PagedState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def abstract_state(optimizer: optax.GradientTransformation, params: PyTree, device: jax.Device) -> PyTree:
    """Shapes of ``optimizer.init(params)`` with their memory kinds, to compile a step ahead of time.

    ``jax.eval_shape`` alone forgets the memory kind, and the step would be compiled for a state on the device.

    Args:
      optimizer: a chain with `paged` in it.
      params: a tree of arrays or of abstract arrays.
      device: the device to compile for.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    # Of all shardings it is NamedSharding whose memory kind reaches the type of a traced argument (jax 0.10).
    mesh = jax.sharding.Mesh([device], ("device",))
    default = device.default_memory().kind

    def place(x: Any) -> jax.ShapeDtypeStruct:
        kind = "pinned_host" if x.memory_space == HOST else default
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(), memory_kind=kind)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    closed, shapes = jax.make_jaxpr(optimizer.init, return_shape=True)(params)
    return jax.tree.unflatten(jax.tree.structure(shapes), [place(x) for x in closed.out_avals])
