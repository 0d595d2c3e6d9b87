"""The runs of a comparison, each a process of its own: its memory ends with it, and it goes on where it was killed."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence

from absl import flags
from tqdm import tqdm

from experiments.compare.settings import CompareExperiment, VariantSettings
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        variant: its line of the table; empty for what is prepared.
        seed: of the run.
        arguments: of the interpreter.
        log: everything that the process says.
        workdir: of the run, or None where its config names it.
    """

    variant: str
    seed: int
    arguments: tuple[str, ...]
    log: pathlib.Path
    workdir: pathlib.Path | None

    @property
    def done(self) -> bool:
        """Whether the run has written its summary.

        Raises:
            UserError: when it was made with other arguments: one table does not hold both.
        """
        if self.workdir is None or not (self.workdir / "summary.json").exists():
            return False
        if self._told is not None and self._told.exists():
            before, now = json.loads(self._told.read_text()), self._settings
            if differs := sorted(set(before) ^ set(now)):
                raise UserError(
                    f"{self.workdir} holds a finished run of other settings ({', '.join(differs)[:200]}); delete it, "
                    "or set --config.workdir to a new folder"
                )
        return True

    def remember(self) -> None:
        """Write down what the run is begun with."""
        if self._told is not None:
            write_atomic(self._told, json.dumps(self._settings, indent=1) + "\n")

    @property
    def _told(self) -> pathlib.Path | None:
        return self.workdir.with_name(f"{self.workdir.name}.json") if self.workdir else None

    @property
    def _settings(self) -> list[str]:
        return [text for text in self.arguments if not text.startswith("--cache=")]


def prepared(settings: CompareExperiment) -> list[Job]:
    """What comes first."""
    logs = pathlib.Path(settings.workdir) / "logs"
    return [
        Job("", 0, arguments(variant), logs / f"prepare_{name}.log", None) for name, variant in settings.prepare.items()
    ]


def jobs(settings: CompareExperiment) -> list[Job]:
    """The runs of all variants; one seed of all before the next, so that an early look compares all."""
    root, found = pathlib.Path(settings.workdir), []
    for seed in settings.seeds:
        for name, variant in settings.variants.items():
            workdir = root / "runs" / name / str(seed)
            own = (*settings.overrides, *variant.overrides, f"--config.workdir={workdir}", f"--config.seed={seed}")
            found.append(Job(name, seed, arguments(variant, own), root / "logs" / f"{name}_{seed}.log", workdir))
    return found


def arguments(variant: VariantSettings, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Of the interpreter, for a variant's command."""
    own = more or variant.overrides
    return ("-m", f"experiments.{variant.command}", f"--config={variant.config}", *own, f"--cache={_cache()}")


def _cache() -> str:
    return flags.FLAGS.cache if "cache" in flags.FLAGS and flags.FLAGS.is_parsed() else ".cache/jax"


def failures(todo: Sequence[Job], at_once: int = 1) -> Iterator[tuple[Job, str]]:
    """Run all that are not done, so many beside each other; those that fail, with the last line that they said."""
    free: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for cores in shares(available(), at_once):
        free.put(cores)

    def one(job: Job) -> int:
        tqdm.write(f"{job.variant or 'prepare'} {job.seed}: {'done before' if job.done else job.log}")
        cores = free.get()
        try:
            return 0 if job.done else run(job, cores if at_once > 1 else ())
        finally:
            free.put(cores)

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        try:
            for job, status in tqdm(zip(todo, pool.map(one, todo)), total=len(todo), unit="run", dynamic_ncols=True):
                if status:
                    yield job, last_line(job.log)
        finally:
            pool.shutdown(cancel_futures=True)  # interrupted: what waits is not begun


def available() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def shares(cores: Sequence[int], parts: int) -> list[set[int]]:
    """Cores dealt out in parts, none of them empty where there is a core.

    >>> shares([0, 1, 2], 2), shares([5], 2), shares([], 1)
    ([{0, 2}, {1}], [{5}, {5}], [set()])
    """
    return [set(cores[part::parts]) or set(cores) for part in range(parts)]


def run(job: Job, cores: Collection[int] = ()) -> int:
    """The exit status of a run, held to these cores if there are any; what it says goes to its log."""
    held = ("-m", "experiments.compare.held", ",".join(map(str, sorted(cores))), *job.arguments[1:])
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.remember()
    with job.log.open("a") as log:
        line = [sys.executable, *held]
        return subprocess.run(line, stdout=log, stderr=subprocess.STDOUT).returncode


def last_line(log: pathlib.Path) -> str:
    """The last line of a log, or what stands for it."""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
