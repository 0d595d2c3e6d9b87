"""The page of a run, finished or going on: curves, samples token by token, time and memory by phase.

usage: python -m experiments.report [--config FILE] [--config.KEY=VALUE ...]

  python -m experiments.report --config.run=runs/grpo_smollm2_arithmetic
  python -m experiments.report --config.run=runs/mine --config.out=mine.html

A finished run has its page already: report.html in its workdir.  The page is one file; it loads nothing and runs no
script.
"""

import dataclasses
import pathlib
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.grpo.algorithm import GRPO
from experiments.sft.algorithm import SFT
from experiments.workdir import Workdir
from lqlm.errors import UserError
from lqlm.io.curves import Panel
from lqlm.io.report.page import write_report

DEFAULT = "configs/report.py"
ALGORITHMS = (GRPO, SFT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Which run, and where its page is written.

    Attributes:
        run: its workdir.
        out: the page; empty: ``report.html`` in the run's workdir.
    """

    run: str
    out: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not self.run:
            raise UserError("run is empty; name the workdir of a run")


def panels() -> tuple[Panel, ...]:
    """Those of all algorithms; a run has the metrics of some."""
    return tuple({panel.title: panel for algorithm in ALGORITHMS for panel in algorithm.panels}.values())


def main(config: Any) -> None:
    """Read a run's files, write its page, say where."""
    settings = from_config(ReportSettings, config)
    workdir = Workdir(pathlib.Path(settings.run))
    out = settings.out or workdir.report
    write_report(workdir.path, out, panels())
    print(out)


if __name__ == "__main__":
    command.run(main, ReportSettings, __doc__ or "", DEFAULT)
