"""The runs of a comparison, each a process of its own: its memory ends with it, and it goes on where it was killed."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from tqdm import tqdm

from experiments.compare.settings import CompareExperiment, VariantSettings


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
        """Whether the run has written its summary."""
        return self.workdir is not None and (self.workdir / "summary.json").exists()


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


def failures(todo: Sequence[Job]) -> Iterator[tuple[Job, str]]:
    """Run all that are not done, one after the other; those that fail, with the last line that they said."""
    for job in tqdm(todo, unit="run", dynamic_ncols=True):
        tqdm.write(f"{job.variant or 'prepare'} {job.seed}: {'done before' if job.done else job.log}")
        if not job.done and run(job):
            yield job, last_line(job.log)


def run(job: Job) -> int:
    """The exit status of a run; what it says goes to its log."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a") as log:
        return subprocess.run([sys.executable, *job.arguments], stdout=log, stderr=subprocess.STDOUT).returncode


def last_line(log: pathlib.Path) -> str:
    """The last line of a log, or what stands for it."""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
