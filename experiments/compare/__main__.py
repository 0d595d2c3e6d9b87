"""Algorithms and remedies side by side: one task, equal rollouts, several seeds.

usage: python -m experiments.compare [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.compare --config configs/compare_tiny.py
  python -m experiments.compare --config configs/compare_tiny.py:remedies --config.seeds=0,1 --config.at_once=2

Written into --config.workdir:
  compare.md      the table: mean and 95% interval over the seeds     runs/VARIANT/SEED/   each run, as its command
  compare.json    the same as numbers, and the settings               logs/                what the runs said
  compare.png     accuracy against samples and against seconds

Killed at any moment, the same command goes on: finished runs are only read, and the one that was cut off goes on from
its last checkpoint.
"""

import dataclasses
import json
import pathlib
from typing import Any

from experiments import command
from experiments.compare.plot import plot
from experiments.compare.runs import failures, jobs, prepared
from experiments.compare.settings import CompareExperiment
from experiments.compare.table import Curve, markdown, read_curve, summarize
from experiments.configdict import from_config
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.io.monitor import git_revision, versions

DEFAULT = "configs/compare_tiny.py"


def main(config: Any) -> None:
    """All runs, then the table and the picture."""
    settings = from_config(CompareExperiment, config)
    _ = [job.done for job in jobs(settings)]  # refuses finished runs of other settings before hours of work
    for job, said in failures(prepared(settings)):
        raise UserError(f"what comes first has failed ({said}); see {job.log}")
    failed = list(failures(jobs(settings), settings.at_once))
    report(settings)
    if failed:
        job, said = failed[0]
        raise UserError(
            f"{len(failed)} of {len(jobs(settings))} runs failed and are not in the table, the first of them "
            f"{job.variant} with seed {job.seed} ({said}); see {job.log}, then give the same command again"
        )


def report(settings: CompareExperiment) -> None:
    """Table, numbers and picture of the runs that are finished."""
    curves: dict[str, list[Curve]] = {}
    for job in jobs(settings):
        if job.done and job.workdir is not None:
            curves.setdefault(job.variant, []).append(read_curve(job.workdir, settings.metric))
    if not curves:
        raise UserError(f"{settings.workdir}: no run has finished; see the logs there")
    summary, root = summarize(curves, settings.rollouts), pathlib.Path(settings.workdir)
    text = markdown(summary, settings.metric)
    more = {"config": dataclasses.asdict(settings), "versions": versions(), "git_revision": git_revision()}
    write_atomic(root / "compare.json", json.dumps(summary | more, indent=2).replace("NaN", "null") + "\n")
    write_atomic(root / "compare.md", text)
    plot(curves, root / "compare.png", title=settings.title, metric=settings.metric)
    print(text)


if __name__ == "__main__":
    command.run(main, CompareExperiment, __doc__ or "", DEFAULT)
