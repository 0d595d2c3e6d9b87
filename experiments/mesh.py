"""The mesh of a run, from one setting: ``data=2,fsdp=2,tensor=2``; and what of a run lies where on it.

Without a mesh everything here hands back what it was given: one device, the programs of one device.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from lqlm.errors import UserError
from lqlm.layout import AXES, BATCH, on_mesh, parts
from lqlm.models.config import ModelConfig
from lqlm.sharding import batch_shardings, put, replicated, shard, shard_batch, shardings
from lqlm.types import Key, PyTree

REST = -1


def axis_lengths(text: str, devices: int) -> dict[str, int]:
    """Devices along each axis.

    Args:
        text: ``axis=number`` with commas between them; axes that are not named have 1 device, and one number may be -1:
            as many as are left.
        devices: how many there are; a multiple of the product.

    Raises:
        UserError: for anything else.

    >>> axis_lengths("data=2,fsdp=-1", 8)
    {'data': 2, 'fsdp': 4, 'tensor': 1}
    """
    found = dict.fromkeys(AXES, 1)
    for name, number in _entries(text).items():
        found[name] = number
    open_axes = [name for name, number in found.items() if number == REST]
    if len(open_axes) > 1:
        raise UserError(f"mesh {text!r}: {' and '.join(open_axes)} are both -1; give all axes but one a number")
    product = int(np.prod([number for number in found.values() if number != REST]))
    if devices % product:
        raise UserError(
            f"mesh {text!r} is {product} devices or a multiple, which does not divide the {devices} that are here; "
            f"choose axes whose product divides {devices}"
        )
    return {name: devices // product if number == REST else number for name, number in found.items()}


def _entries(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in text.split(","):
        name, _, number = (part.strip() for part in entry.partition("="))
        if name not in AXES or name in found:
            what = "is there twice" if name in found else "is no axis"
            raise UserError(f"mesh {text!r}: {name!r} {what}; write it as {','.join(f'{axis}=1' for axis in AXES)}")
        if not number.lstrip("-").isdigit() or (int(number) < 1 and int(number) != REST):
            raise UserError(f"mesh {text!r}: {name} is {number!r}; give 1 or more, or -1 for all devices that are left")
        found[name] = int(number)
    return found


def make_mesh(text: str) -> Mesh | None:
    """The mesh over the first devices of all processes; None for an empty text.

    Raises:
        UserError: for a text that does not read, does not fit the devices, or leaves out devices of some hosts.
    """
    if not text:
        if jax.process_count() > 1:
            raise UserError(f"mesh is empty and the run has {jax.process_count()} processes; set it, such as data=-1")
        return None
    found = axis_lengths(text, jax.device_count())
    used = int(np.prod(list(found.values())))
    if jax.process_count() > 1 and used < jax.device_count():
        raise UserError(
            f"mesh {text!r} leaves {jax.device_count() - used} of {jax.device_count()} devices out; with several "
            "processes it must have all of them (-1 for one axis does)"
        )
    return jax.make_mesh(tuple(found.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:used])


def check_rows(mesh: Mesh | None, **rows: int) -> None:
    """Refuse batches that the data axes do not divide.

    Args:
        mesh: of the run.
        rows: of a micro-batch, by the name of the setting.

    Raises:
        UserError: naming the setting.
    """
    shards = 1 if mesh is None else parts(BATCH, dict(mesh.shape))
    for name, count in rows.items():
        if count % shards:
            raise UserError(
                f"{name.replace('_', '.', 1)}: a micro-batch of {count} rows cannot be split over data x fsdp = "
                f"{shards} devices; choose a multiple of {shards}"
            )


@contextlib.contextmanager
def beside(mesh: Mesh | None) -> Iterator[None]:
    """Compute in the memory of this host, not of one device of the mesh: nothing whole must fit a device."""
    try:
        host = None if mesh is None else jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        host = None
    with contextlib.nullcontext() if host is None else jax.default_device(host):
        yield


def laid_out(mesh: Mesh | None, tree: PyTree, cfg: ModelConfig) -> PyTree:
    """Weights, adapters or training state by the rules of `lqlm.sharding`."""
    return tree if mesh is None else shard(mesh, tree, cfg)


def batched(mesh: Mesh | None, batch: PyTree) -> PyTree:
    """A batch that every process holds whole, its rows over the data axes."""
    return batch if mesh is None else shard_batch(mesh, jax.tree.map(np.asarray, batch))


def keyed(mesh: Mesh | None, key: Key) -> Key:
    """A key on every device."""
    if mesh is None:
        return key
    return jax.random.wrap_key_data(put(np.asarray(jax.random.key_data(key)), replicated(mesh)))


def compiled(function: Callable, mesh: Mesh | None, out: Any = None, **jit: Any) -> Callable:
    """``jax.jit``, on the mesh where there is one.

    Args:
        function: of arrays.
        mesh: of the run.
        out: mesh -> shardings of the results, where they are not to be chosen by the compiler.
        jit: of `jax.jit`.
    """
    if mesh is None:
        return jax.jit(function, **jit)
    where = {} if out is None else {"out_shardings": out(mesh)}
    return jax.jit(on_mesh(function, mesh), **jit, **where)


def compiled_update(update: Callable, mesh: Mesh | None, state: PyTree, cfg: ModelConfig) -> Callable:
    """An update whose state stays where it lies, and whose metrics every process can read."""
    return compiled(update, mesh, lambda mesh: (shardings(mesh, state, cfg), replicated(mesh)), donate_argnums=0)


def rows_out(rows: int) -> Callable[[Mesh], Any]:
    """Results of one entry for each row of a batch, laid out as the batch."""
    return lambda mesh: batch_shardings(mesh, np.empty(rows))
