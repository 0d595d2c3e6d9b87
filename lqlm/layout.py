"""Where arrays lie inside a compiled function: the axes of a mesh, and constraints that mean nothing without one.

A function says here how its values are split; outside of :func:`on_mesh` it says nothing, and on one device the
compiled program is the one without these lines.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from lqlm.types import Array, PyTree

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
BATCH = (DATA, FSDP)
"""The axes that rows of a batch are split over."""

Axes = str | tuple[str, ...] | None


def on_mesh(function: Callable, mesh: Mesh | AbstractMesh | None) -> Callable:
    """The same function, traced so that its constraints speak of this mesh; itself where the mesh is None.

    Args:
        function: of arrays, to be jitted.
        mesh: with the axes `AXES`, all of type Auto.
    """
    if mesh is None:
        return function
    abstract = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(abstract):
            return function(*args, **kwargs)

    return traced


def axis_sizes() -> dict[str, int]:
    """Devices along each axis of the mesh that is traced for; empty without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty else dict(mesh.shape)


def parts(axes: Axes, sizes: dict[str, int]) -> int:
    """How many parts a dimension is cut into.

    >>> parts(("data", "fsdp"), {"data": 2, "fsdp": 4, "tensor": 1}), parts(None, {})
    (8, 1)
    """
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(sizes.get(name, 1) for name in names)


def fit(axes: Axes, count: int, sizes: dict[str, int]) -> Axes:
    """The axes that cut so many units evenly: of several the first that do; None where none does.

    >>> fit(("data", "fsdp"), 6, {"data": 2, "fsdp": 4}), fit("tensor", 3, {"tensor": 2})
    ('data', None)
    """
    names = (axes,) if isinstance(axes, str) else axes or ()
    kept: tuple[str, ...] = ()
    for name in names:
        if sizes.get(name, 1) > 1 and count % parts((*kept, name), sizes) == 0:
            kept = (*kept, name)
    return kept[0] if len(kept) == 1 else kept or None


def constrain(x: Array, *axes: Axes) -> Array:
    """``x`` split over these axes, one entry for each leading dimension; what does not divide is not split.

    Args:
        x: any array.
        axes: of the mesh; dimensions that are not named lie whole on each device.
    """
    sizes = axis_sizes()
    if not sizes:
        return x
    spec = [fit(a, n, sizes) for a, n in zip(axes, x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def shardwise(function: Callable[..., PyTree], *arrays: Array, rows: int) -> PyTree:
    """``function(*arrays)``, where each device's part of the rows is a call of its own: no row leaves its device.

    Args:
        function: of arrays [n, ...], row by row: its results are [n, ...], and a row's depends on that row only.
        arrays: [N, ...], laid out as the rows of a batch are.
        rows: rows of the batch; divides N.  Where the mesh does not divide it, or without one, this is one call.
    """
    count = parts(fit(BATCH, rows, axis_sizes()), axis_sizes())
    if count == 1:
        return function(*arrays)
    split = [constrain(x.reshape(count, -1, *x.shape[1:]), BATCH) for x in arrays]
    out = jax.vmap(function)(*split)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def lookup(table: Array, index: Array) -> Array:
    """``table[index]``: on a mesh each device reads its columns of the table, and the results change places, not it.

    Args:
        table: [V, D].
        index: int32 [B, ...].

    Returns:
        [B, ..., D].
    """
    if not axis_sizes():
        return table[index]
    whole = constrain(index, DATA)
    found = constrain(table[whole], DATA, *[None] * (index.ndim - 1), FSDP)
    return constrain(found, BATCH)
