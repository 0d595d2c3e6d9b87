"""What a run says about itself: compilations, memory, seconds and tokens per phase, versions, ``summary.json``."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

import lqlm
from lqlm.io.disk import write_atomic
from lqlm.io.metrics import plain

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"  # also when the persistent cache has the program
CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "chex",
    "numpy",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
)


class CompilationCounter:
    """Counts programs that XLA made ready, from its creation to :meth:`close`; also a context manager.

    A program taken from the persistent cache was not compiled, but it was traced, looked up and loaded: a step that
    must compile nothing must not do that either.  So ``total`` counts both and ``cache_hits`` says how many were found.

    >>> with CompilationCounter() as counter:
    ...     step = jax.jit(lambda x: x * 3 + 1)
    ...     _ = step(1.0)
    ...     counter.mark()
    ...     _ = step(2.0)
    >>> counter.since_mark
    0
    """

    def __init__(self) -> None:
        self.total = 0
        self.cache_hits = 0
        self.seconds = 0.0
        self._mark = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        self._open = True

    def _on_duration(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == COMPILE_EVENT:
            self.total += 1
            self.seconds += duration_secs

    def _on_event(self, event: str, **kwargs: Any) -> None:
        if event == CACHE_HIT_EVENT:
            self.cache_hits += 1

    def mark(self) -> None:
        """Starts :attr:`since_mark` at 0."""
        self._mark = self.total

    @property
    def since_mark(self) -> int:
        """Programs since the last :meth:`mark` (since creation, without one)."""
        return self.total - self._mark

    def close(self) -> None:
        """Stops counting; the numbers stay."""
        if self._open:
            jax.monitoring.unregister_event_duration_listener(self._on_duration)
            jax.monitoring.unregister_event_listener(self._on_event)
            self._open = False

    def __enter__(self) -> "CompilationCounter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peak_memory_bytes() -> int:
    """The largest memory in use so far, in bytes: of the fullest device where it tells, else of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) if peaks else _process_peak()


def memory_in_use() -> int:
    """Bytes in use now: of the fullest device where it tells, else of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    now = [s["bytes_in_use"] for s in stats if "bytes_in_use" in s]
    return max(now) if now else _process_now()


def _process_now() -> int:
    """Resident bytes of this process; its peak where the system does not tell."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else _process_peak()


def _process_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclasses.dataclass
class Phase:
    """Seconds and tokens of one phase, and the most bytes in use at its end; add to ``tokens`` inside the block."""

    seconds: float = 0.0
    tokens: int = 0
    calls: int = 0
    memory: int = 0

    @property
    def tokens_per_second(self) -> float:
        """0 before anything was timed."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class PhaseTimers:
    """Seconds, tokens and bytes in use per phase, of the current step and of the whole run.

    The device works on after a call returns: block on the results inside the block, or the next phase pays for them.

    >>> timers = PhaseTimers()
    >>> with timers.phase("rollout") as rollout:
    ...     rollout.tokens += 128
    >>> sorted(timers.step_metrics())
    ['memory/rollout', 'seconds/rollout', 'tokens_per_second/rollout']
    """

    def __init__(self) -> None:
        self.totals: dict[str, Phase] = {}
        self._step: dict[str, Phase] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Times a block, also one that raises, and looks at the memory in use after it."""
        lap, start = Phase(calls=1), time.perf_counter()
        try:
            yield lap
        finally:
            lap.seconds += time.perf_counter() - start
            lap.memory = memory_in_use()
            for table in (self._step, self.totals):
                _add(table.setdefault(name, Phase()), lap)

    def step_metrics(self) -> dict[str, float]:
        """Metrics of the phases since the last call; a phase without tokens has seconds only."""
        metrics = _metrics(self._step)
        self._step = {}
        return metrics

    def total_metrics(self) -> dict[str, float]:
        """The same over the whole run."""
        return _metrics(self.totals)


def _add(to: Phase, lap: Phase) -> None:
    to.seconds, to.tokens, to.calls = to.seconds + lap.seconds, to.tokens + lap.tokens, to.calls + lap.calls
    to.memory = max(to.memory, lap.memory)


def _metrics(table: Mapping[str, Phase]) -> dict[str, float]:
    seconds = {f"seconds/{name}": phase.seconds for name, phase in table.items()}
    memory = {f"memory/{name}": phase.memory for name, phase in table.items()}
    return seconds | memory | {f"tokens_per_second/{n}": p.tokens_per_second for n, p in table.items() if p.tokens}


def versions() -> dict[str, str]:
    """Versions of Python, lqlm, the packages below it that are installed, and the device kind."""
    found = {"python": platform.python_version(), "lqlm": lqlm.__version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | {"platform": platform.platform(), "device": jax.local_devices()[0].device_kind}


def git_revision(package: str | os.PathLike[str] = lqlm.__path__[0]) -> str:
    """The commit that ``package`` was checked out from, ``+dirty`` when tracked files differ, or ``unknown``.

    A package that merely lies below some other checkout, such as one installed in its virtual environment, is unknown.
    """
    folder = pathlib.Path(package)
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return "unknown"
    revision, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    if revision is None:
        return "unknown"
    return revision + ("+dirty" if changes else "")


def _git(folder: pathlib.Path, *args: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def write_summary(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """Writes ``summary.json``, whole or not at all; numpy and jax scalars become numbers, NaN becomes null.

    Args:
        path: of the file.
        summary: what JSON can hold once its scalars are plain; a dataclass becomes a dict.

    Raises:
        UserError: when the disk is full; an older summary stays.
    """
    write_atomic(path, json.dumps(_jsonable(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _jsonable(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else plain(value)
