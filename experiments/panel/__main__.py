"""A panel of experts (tree of thought) against single samples and a majority vote at equal tokens.

usage: python -m experiments.panel [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.panel
  python -m experiments.panel --config.panel.experts=5 --config.panel.rounds=1 --config.problems=48

Several experts write one step each, read those of all, and go on; one that finds itself wrong leaves.  At the end each
who is left answers, and the answer given most often counts.
"""

import dataclasses
import json
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.generate.report import table
from experiments.generate.session import open_session
from experiments.panel.compare import Method, asker, compare
from experiments.panel.settings import PanelExperiment
from experiments.rollouts.prompts import build_task
from lqlm.generation.panel import Panel
from lqlm.io.disk import write_atomic
from lqlm.io.monitor import versions

DEFAULT = "configs/panel_smollm2.py"


def main(config: Any) -> None:
    """Three ways to answer, one table."""
    settings = from_config(PanelExperiment, config)
    command.use_compilation_cache()
    task = build_task(settings.task)
    items = list(task.heldout[: settings.problems or None])
    session = open_session(settings)
    methods, panels = compare(task, items, asker(session), settings.panel)
    for method in methods:
        print(_line(method))
    left = sum(settings.panel.experts - len(panel.present) for panel in panels)
    print(
        f"{left} of {len(panels) * settings.panel.experts} experts left\nthe last round: {table(session.engine.stats)}"
    )
    if settings.report:
        write_atomic(settings.report, _json(settings, methods, panels))


def _line(method: Method) -> str:
    low, high = method.interval()
    each = method.tokens / method.problems
    accuracy = method.right / method.problems
    return f"{method.name:16} {accuracy:6.1%} ({low:.1%} to {high:.1%}), {each:6.1f} tokens a problem"


def _json(settings: PanelExperiment, methods: list[Method], panels: list[Panel]) -> str:
    found = {
        "methods": [dataclasses.asdict(method) for method in methods],
        "panels": [dataclasses.asdict(panel) for panel in panels],
        "config": dataclasses.asdict(settings),
        "versions": versions(),
    }
    return json.dumps(found, indent=2) + "\n"


if __name__ == "__main__":
    command.run(main, PanelExperiment, __doc__ or "", DEFAULT)
