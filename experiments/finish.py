"""What a finished run leaves behind: the adapter for PEFT, the curves, the summary, and a few lines for a person."""

import dataclasses
import json
from typing import Any

from experiments.run import Run, usage
from experiments.workdir import Workdir
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import plot_curves
from lqlm.io.metrics import METRICS
from lqlm.io.monitor import git_revision, versions, write_summary
from lqlm.io.peft import save_peft


def finish(run: Run, state: TrainState) -> None:
    """Write adapter, curves and summary; the summary last, because it says that all is there."""
    setup, workdir = run.setup, run.workdir
    save_peft(workdir.adapter, state.adapters, setup.settings.lora, setup.model.config, setup.settings.model.source)
    plot_curves(workdir.path / METRICS, workdir.curves, title=workdir.path.name)
    write_summary(workdir.summary, summarize(run, state))


def summarize(run: Run, state: TrainState) -> dict[str, Any]:
    """Everything about the run that somebody may ask for later."""
    steps = run.setup.settings.run.steps
    evals = run.history["eval"]
    return {
        "steps": steps,
        "before": evals["0"],
        "after": evals[str(steps)],
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
    lines = [f"{found['steps']} steps; held-out accuracy, greedy:"]
    for name, before in found["before"].items():
        lines.append(f"  {name.removeprefix('eval/'):16} {before:.3f} -> {found['after'][name]:.3f}")
    speeds = {k.removeprefix("tokens_per_second/"): v for k, v in found.items() if k.startswith("tokens_per_second/")}
    lines.append("  tokens/s: " + ", ".join(f"{name} {value:.0f}" for name, value in speeds.items()))
    lines.append(f"  peak memory {found['peak_memory_bytes'] / 2**30:.2f} GiB, {found['compilations']} compilations")
    lines.append(f"  {workdir.summary}, {workdir.curves}, {workdir.adapter}/")
    return "\n".join(lines)
