"""What a finished run leaves behind: adapters or model, the curves, the summary, and a few lines for a person."""

import dataclasses
import json
from typing import Any

import jax

from experiments.best import best_step
from experiments.hosts import first
from experiments.run import Run, usage
from experiments.workdir import Workdir
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import plot_curves
from lqlm.io.metrics import METRICS
from lqlm.io.monitor import git_revision, versions, write_summary
from lqlm.io.report.page import write_report


def finish(run: Run, state: TrainState) -> None:
    """Write the result, curves, report and summary; the summary last, because it says that all is there."""
    workdir = run.workdir
    run.algorithm.save(run, state)
    if not first():
        return
    plot_curves(workdir.path / METRICS, workdir.curves, title=workdir.path.name, panels=run.algorithm.panels)
    summary = summarize(run, state)
    write_report(workdir.path, workdir.report, run.algorithm.panels, summary)
    write_summary(workdir.summary, summary)


def summarize(run: Run, state: TrainState) -> dict[str, Any]:
    """Everything about the run that somebody may ask for later."""
    evals, settings = run.history["eval"], run.setup.settings.run
    last = max(map(int, evals))
    chosen = best_step(run) if settings.patience else last
    return {
        "steps": settings.steps,
        "steps_done": last,
        "result_of_step": chosen,
        "before": evals["0"],
        "after": evals[str(chosen)],
        "trained_parameters": sum(x.size for x in jax.tree.leaves(state.adapters)),
        "skipped_updates": int(state.skipped_total),
        **run.timers.total_metrics(),
        **usage(run),
        "model": {"source": run.setup.model.source, "sha256": run.setup.model.checksum},
        "git_revision": git_revision(),
        "versions": versions(),
        "config": dataclasses.asdict(run.setup.settings),
    }


def report(workdir: Workdir) -> str:
    """The summary in a few lines."""
    found = json.loads(workdir.summary.read_text())
    stopped = found["steps_done"] < found["steps"] or found["result_of_step"] < found["steps_done"]
    chosen = f" of {found['steps']}; the best were those of step {found['result_of_step']}" if stopped else ""
    lines = [f"{found['steps_done']} steps{chosen}; held out, before and after:"]
    width = max(len(name) for name in found["before"])
    for name, before in found["before"].items():
        lines.append(f"  {name.removeprefix('eval/'):{width}} {_number(before)} -> {_number(found['after'][name])}")
    speeds = {k.removeprefix("tokens_per_second/"): v for k, v in found.items() if k.startswith("tokens_per_second/")}
    lines.append("  tokens/s: " + ", ".join(f"{name} {value:.0f}" for name, value in speeds.items()))
    lines.append(f"  peak memory {found['peak_memory_bytes'] / 2**30:.2f} GiB, {found['compilations']} compilations")
    results = [f"{path}/" for path in (workdir.adapter, workdir.model) if path.is_dir()]
    lines.append("  " + ", ".join(map(str, (workdir.summary, workdir.curves, workdir.report, *results))))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """A metric for a person; what was no finite number is null in JSON."""
    return "not finite" if value is None else f"{value:.3f}"
