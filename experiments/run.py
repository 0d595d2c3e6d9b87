"""What a run carries on the host, and the files that it holds open."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from experiments.algorithm import Algorithm, Setup
from experiments.hosts import first
from experiments.workdir import Workdir
from lqlm.io.checkpoint import Checkpoints
from lqlm.io.metrics import MetricsWriter
from lqlm.io.monitor import CompilationCounter, PhaseTimers, peak_memory_bytes
from lqlm.types import PyTree

S = TypeVar("S", bound=Setup)


class Silence:
    """What a process writes beside the first: nothing; the methods are those of `MetricsWriter`."""

    def truncate(self, step: int) -> None:
        """Drops nothing."""

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *_: object) -> None:
        """Closes nothing."""


@dataclasses.dataclass
class Run(Generic[S]):
    """What the loop carries on the host beside the training state."""

    algorithm: Algorithm
    setup: S
    workdir: Workdir
    writer: MetricsWriter | Silence
    checkpoints: Checkpoints
    counter: CompilationCounter
    timers: PhaseTimers
    history: dict[str, Any] = dataclasses.field(default_factory=dict)  # what resuming must not forget; JSON
    best: PyTree = None  # the best adapters so far, in host memory, where patience is set
    compiled_late: int = 0  # programs made after this process's first step; a resumed one makes its evaluation later
    warned: bool = False
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)  # a completion of the last step, for a person
    earlier: dict[str, float] = dataclasses.field(default_factory=dict)  # ``usage`` of killed processes, at their saves


@contextlib.contextmanager
def open_run(algorithm: Algorithm, setup: Setup, workdir: Workdir) -> Iterator[Run]:
    """The files of a run, opened and, whatever happens, closed."""
    with MetricsWriter(workdir.path) if first() else Silence() as writer, CompilationCounter() as counter:
        checkpoints = Checkpoints(workdir.checkpoints, setup.settings.run.keep)
        try:
            yield Run(algorithm, setup, workdir, writer, checkpoints, counter, PhaseTimers())
        finally:
            checkpoints.close()


def usage(run: Run) -> dict[str, float]:
    """Compilations and memory, those of the processes before this one included."""
    now = {
        "compilations": run.counter.total,
        "compilations_after_first_step": run.compiled_late,
        "compilation_seconds": run.counter.seconds,
    }
    peak = max(peak_memory_bytes(), run.earlier.get("peak_memory_bytes", 0))
    return {name: value + run.earlier.get(name, 0) for name, value in now.items()} | {"peak_memory_bytes": peak}
