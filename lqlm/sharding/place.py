"""Trees of arrays laid out by the rules, and brought back whole to the host."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from lqlm.layout import BATCH, axis_sizes, fit
from lqlm.sharding.rules import Heads, specs
from lqlm.types import Array, PyTree


def shardings(mesh: Mesh | AbstractMesh, tree: PyTree, cfg: Heads) -> PyTree:
    """`specs` on a mesh, as a tree of `NamedSharding`; what lies in host memory stays there."""
    found = specs(dict(mesh.shape), tree, cfg)
    return jax.tree.map(lambda x, spec: NamedSharding(mesh, spec, memory_kind=_host(x)), tree, found)


def batch_shardings(mesh: Mesh | AbstractMesh, batch: PyTree) -> PyTree:
    """Rows over the data axes, and all else on every device."""
    sizes = dict(mesh.shape)
    spec = lambda x: PartitionSpec(*[fit(BATCH, n, sizes) for n in np.shape(x)[:1]])  # noqa: E731
    return jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), batch)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard(mesh: Mesh, tree: PyTree, cfg: Heads) -> PyTree:
    """A tree laid out by the rules; every process must hold the same values."""
    return put(tree, shardings(mesh, tree, cfg))


def shard_batch(mesh: Mesh, batch: PyTree) -> PyTree:
    """A batch laid out over the data axes; every process must hold the same values."""
    return put(batch, batch_shardings(mesh, batch))


def constrained(tree: PyTree, cfg: Heads) -> PyTree:
    """Inside of a compiled function: a tree laid out by the rules, where there is a mesh."""
    if not axis_sizes():
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs(axis_sizes(), tree, cfg))


def whole(tree: PyTree) -> PyTree:
    """A tree in the memory of the host, whole on every process, one leaf after the other; all processes call it."""
    return jax.tree.map(lambda x: x if _here(x) else _brought(x), tree)


def _here(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def _brought(x: Any) -> np.ndarray:
    if x.sharding.memory_kind == "pinned_host":
        x = jax.device_put(x, x.sharding.with_memory_kind("device"))
    return np.asarray(x if x.is_fully_replicated else _gather(x.sharding.mesh)(x))


@functools.cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def put(tree: PyTree, where: PyTree) -> PyTree:
    """Arrays that each process holds whole, laid out as told; on several hosts each copies only its own parts."""
    return jax.tree.map(_put, tree, where)


def _put(x: Any, where: NamedSharding) -> Array:
    values = np.asarray(x)
    if where.is_fully_addressable:
        return jax.device_put(values, where, may_alias=False)  # a step that is given the parts must not take the whole
    return jax.make_array_from_callback(values.shape, where, lambda index: np.array(values[index]))


def _host(x: Any) -> str | None:
    kind = getattr(getattr(x, "sharding", None), "memory_kind", None)
    return kind if kind == "pinned_host" else None
