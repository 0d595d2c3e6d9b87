"""Checkpoints: the training state, and what must go with it to continue bit for bit.

A checkpoint is a folder named by its step, written beside its place and renamed there by orbax, so that a process
killed at any moment leaves whole checkpoints only.  The state is stored as ``{leaf path: array}`` with a record of each
leaf's shape, dtype and CRC-32: restoring checks all three, whatever the storage below promises.  Nothing that is read
names its own place or its devices, so a directory can be copied to another machine.

On several hosts, which must see one directory, every process calls every method; the state is brought together leaf by
leaf, and written by the first.  Shards have no place in a checkpoint: it restores onto any mesh, or onto one device.

The base model is never part of the state: put its id, quantization and checksum into ``extra``.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lqlm.errors import UserError
from lqlm.io.disk import clear_when_full
from lqlm.io.leaves import crc, describe, from_arrays, to_arrays
from lqlm.types import PyTree

FORMAT = 1
SET_ASIDE = ".unreadable"  # ends the name of a checkpoint that did not read; orbax does not take it for a step

_log = logging.getLogger(__name__)


class Checkpoints:
    """The last ``keep`` checkpoints of one run in one directory.

    Args:
        directory: made when absent; leftovers of a save that was killed are removed.
        keep: how many checkpoints stay; older ones are deleted after a newer one is whole.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int):
        if keep < 1:
            raise UserError(f"checkpoints to keep: {keep}; keep at least 1")
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self._open()

    def _open(self) -> None:
        if _first():
            with clear_when_full(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        _all("checkpoints opened")
        # Synchronous: a save is over when it returns, and a full disk is known at the step that met it.
        options = ocp.CheckpointManagerOptions(max_to_keep=self.keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        """Saves a checkpoint, whole or not at all; saving the same content at the newest step again does nothing.

        Args:
            step: number of finished steps; higher than any saved before.
            state: any tree of arrays (numpy, jax on device or in host memory, typed PRNG keys).
            extra: what JSON can hold: data position, config, model id, quantization, checksum of the base.

        Raises:
            UserError: when the disk is full (the checkpoints before stay), or for a step that lies behind.
        """
        arrays = to_arrays(state)
        leaves = {p: {"shape": list(a.shape), "dtype": a.dtype.name, "crc": crc(a)} for p, a in arrays.items()}
        record = {"format": FORMAT, "leaves": leaves, "extra": extra, "extra_crc": _json_crc(extra)}
        newest = max(self.steps(), default=-1)
        if step <= newest:
            self._check_same(step, newest, record)
            return
        stored = {path: array for path, array in arrays.items() if array.size}  # orbax refuses empty arrays
        args = ocp.args.Composite(state=ocp.args.StandardSave(stored), record=ocp.args.JsonSave(record))
        with clear_when_full(self.directory / str(step)):
            try:
                with _quiet_orbax():
                    self._manager.save(step, args=args, force=True)
            except Exception:
                self._open()  # removes what was half written, which gives its space back
                raise

    def _check_same(self, step: int, newest: int, record: dict[str, Any]) -> None:
        """A loop that ends on a saving step saves twice; anything else at an old step would be a fork of the run."""
        if step < newest:
            raise UserError(f"{self.directory}: step {step} lies behind checkpoint {newest}; choose an empty directory")
        if _read_record(self._manager, step) != json.loads(json.dumps(record)):
            raise UserError(f"{self.directory}: step {step} is saved with other contents; choose an empty directory")

    def restore(self, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint that reads, in the structure, shardings and memory kinds of a target.

        A newer one that does not read is set aside (renamed, with a warning) once an older one has been read.

        Args:
            abstract_state: the state, or its shape: leaves are arrays or ``jax.ShapeDtypeStruct``.  A leaf with a
                sharding gets its array there, in host memory if it says so.

        Returns:
            ``(step, state, extra)``, or None when there is no checkpoint.

        Raises:
            UserError: when a leaf's name, shape or dtype is not the target's, or when no checkpoint reads.
        """
        unreadable: list[tuple[int, Exception]] = []
        for step in reversed(self.steps()):
            try:
                arrays, extra = self._read(step, abstract_state)
            except UserError:
                raise
            except Exception as error:  # orbax, tensorstore and JSON each have their own for a damaged file
                unreadable.append((step, error))
                continue
            self._set_aside(unreadable, step)
            return step, from_arrays(arrays, abstract_state), extra
        if unreadable:
            step, cause = unreadable[0]
            raise UserError(
                f"{self.directory}: no checkpoint reads (newest, step {step}: {_first_line(cause)}); "
                "restore the directory from a copy, or start in an empty one"
            )
        return None

    def peek(self) -> tuple[int, dict[str, Any]] | None:
        """``(step, extra)`` of the newest checkpoint whose record reads, its state unread; None without one."""
        for step in reversed(self.steps()):
            with contextlib.suppress(Exception):
                return step, _read_record(self._manager, step)["extra"]
        return None

    def close(self) -> None:
        """Frees what orbax holds."""
        self._manager.close()

    def _read(self, step: int, abstract_state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        record = _read_record(self._manager, step)
        expected = describe(abstract_state)
        _check_leaves(self.directory / str(step), record["leaves"], expected)
        target = {path: np.empty(shape, dtype) for path, (shape, dtype) in expected.items()}
        wanted = ocp.args.StandardRestore({path: array for path, array in target.items() if array.size})
        with _quiet_orbax():
            arrays = target | self._manager.restore(step, args=ocp.args.Composite(state=wanted)).state
        for path, leaf in record["leaves"].items():
            if crc(arrays[path]) != leaf["crc"]:
                raise ValueError(f"leaf {path} has changed since it was saved")
        return arrays, record["extra"]

    def _set_aside(self, unreadable: list[tuple[int, Exception]], used: int) -> None:
        for step, error in unreadable:
            name = self.directory / str(step)
            _log.warning("%s does not read (%s): set aside, going on from step %d", name, _first_line(error), used)
            if _first():
                name.rename(_free_name(name))
        if unreadable:
            self._open()


def _first() -> bool:
    """Whether this process makes, renames and removes folders for all."""
    return jax.process_index() == 0


def _all(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """``7.unreadable``, or ``7.unreadable2`` when that is taken."""
    names = (path.with_name(f"{path.name}{SET_ASIDE}{n}") for n in ["", *range(2, 1000)])
    return next(name for name in names if not name.exists())


def _read_record(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    with _quiet_orbax():
        record = manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
    if record["format"] != FORMAT:
        raise UserError(
            f"checkpoint {step} has format {record['format']}, this lqlm reads {FORMAT}; use the lqlm that wrote it"
        )
    if _json_crc(record["extra"]) != record["extra_crc"]:
        raise ValueError("its record has changed since it was saved")
    return record


def _check_leaves(
    where: pathlib.Path, saved: dict[str, Any], expected: dict[str, tuple[tuple[int, ...], np.dtype]]
) -> None:
    """Says the first difference between the checkpoint's leaves and the target's, with both sides."""
    cure = "use the config that the checkpoint was made with, or an empty directory"
    for path in sorted(saved.keys() | expected.keys()):
        left = _show(tuple(saved[path]["shape"]), saved[path]["dtype"]) if path in saved else "absent"
        right = _show(expected[path][0], expected[path][1].name) if path in expected else "absent"
        if left != right:
            raise UserError(f"{where}: leaf {path} is {left} in the checkpoint and {right} in this run; {cure}")


def _show(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _json_crc(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _first_line(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        if str(error).strip()
        else type(error).__name__
    )


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silences the traceback of each thread of a read or write that fails: the caller says it in one line."""
    logger, level, hook = logging.getLogger("absl"), logging.getLogger("absl").level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda ignored: None if "loop is closed" in str(ignored.exc_value) else hook(ignored)
    try:
        yield
    except Exception:
        time.sleep(0.2)  # reads begun beside the one that failed still end, and find orbax's event loop closed
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook
