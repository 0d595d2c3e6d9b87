"""What the sections of ``benchmarks.gpu`` share: cases within a time, timing, random models made on the device."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.trees import commit
from lqlm.types import Array, PyTree

Row = dict[str, Any]


@dataclasses.dataclass
class Bench:
    """One section's way to report, and its time.

    Attributes:
        section: its name.
        path: a file of JSON lines, to which every row is appended at once: nothing measured is lost in a crash.
        deadline: seconds of ``time.time()`` after which no case begins.
        rehearse: tiny shapes on the CPU, kernels interpreted; every line of code runs, no figure means anything.
    """

    section: str
    path: pathlib.Path
    deadline: float
    rehearse: bool = False

    def add(self, **row: Any) -> None:
        """Report one row."""
        self.write("row", row)

    def write(self, kind: str, value: Any) -> None:
        """Append one event."""
        with self.path.open("a") as file:
            file.write(json.dumps({"section": self.section, kind: value}, default=float) + "\n")

    @contextlib.contextmanager
    def case(self, **facts: Any) -> Iterator[Row]:
        """A row that is reported whatever happens: what the block puts in, or its error."""
        row, start = dict(facts), time.time()
        try:
            yield row
        except Exception as error:  # one that does not fit must not end the section
            row["error"] = f"{type(error).__name__}: {error}"[:500]
        self.add(**row, took_s=time.time() - start)

    def within_time(self, cases: Iterable[Any], rehearsed: int = 1) -> Iterator[Any]:
        """The cases, until too little time is left for one as long as the longest so far; some in a rehearsal."""
        todo, longest = list(cases), 0.0
        for i, case in enumerate(todo):
            if time.time() + longest > self.deadline or (self.rehearse and i >= rehearsed):
                self.add(left_out=[str(x)[:60] for x in todo[i:]])
                return
            start = time.time()
            yield case
            longest = max(longest, time.time() - start)

    def limits(self) -> Row:
        """What the section ``facts`` measured: ``bytes_per_s`` of a copy and bf16 ``flops_per_s``."""
        found: Row = {}
        for event in read_events(self.path):
            if event["section"] == "facts" and "row" in event:
                found |= {k: v for k, v in event["row"].items() if k in ("bytes_per_s", "flops_per_s")}
        return found

    def shares(self, seconds: float, moved: float, flops: float = 0.0) -> Row:
        """Time, and its relation to the limits of this very card."""
        limits, row = self.limits(), {"seconds": seconds, "bytes": moved, "flops": flops}
        if "bytes_per_s" in limits and moved:
            row["bandwidth_share"] = moved / seconds / limits["bytes_per_s"]
        if "flops_per_s" in limits and flops:
            row["flops_share"] = flops / seconds / limits["flops_per_s"]
        return row


def read_events(path: pathlib.Path) -> Iterator[Row]:
    """The events of a file; what a process left half written when it ended is passed over."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def best_seconds(call: Callable[[], Any], calls: int = 20, rounds: int = 3) -> float:
    """Seconds of one call: the best mean of several rounds, calls queued so that the host is never waited for."""
    jax.block_until_ready(call())
    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            out = call()
        jax.block_until_ready(out)
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def waited_seconds(call: Callable[[], Any], repeats: int = 3) -> list[float]:
    """Seconds of calls that depend on one another, each waited for; the first two are not counted."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times[2:]


def random_like(tree: PyTree, seed: int = 0) -> PyTree:
    """A model of these shapes with random codes, made on the device leaf by leaf without a dense weight.

    Codes are hashes of their places: a random generator would need several times their bytes for its own.
    Norms are 1, block maxima about 0.02, other floats even in +-0.04.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    made = [
        _leaf(jax.tree_util.keystr(path), x.shape, np.dtype(x.dtype), seed + i) for i, (path, x) in enumerate(leaves)
    ]
    return commit(jax.tree.unflatten(structure, made))


def _leaf(name: str, shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Array:
    if dtype == np.uint8:
        return _hashed(shape, dtype, np.uint32(seed))
    for part, value in (("norm", 1.0), (".absmax", 0.01), (".offset", 0.02), (".maxima", 0.02)):
        if part in name:
            return jnp.full(shape, value, dtype)
    return _hashed(shape, dtype, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hashed(shape: tuple[int, ...], dtype: np.dtype, seed: np.uint32) -> Array:
    """Numbers that look random: the place of each, multiplied and folded (a hash of Knuth's kind)."""
    place = jnp.full(shape, seed * np.uint32(2654435761))
    for axis, size in enumerate(shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    mixed = (place ^ (place >> np.uint32(15))) * np.uint32(2246822519)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(3266489917)
    if dtype == np.uint8:
        return (mixed >> np.uint32(24)).astype(jnp.uint8)
    return ((mixed >> np.uint32(8)).astype(jnp.float32) * np.float32(0.08 / 2**24) - np.float32(0.04)).astype(dtype)
