"""The page of a run, finished or going on: curves, samples token by token, time and memory by phase.

usage: python -m experiments.report [--config FILE] [--config.KEY=VALUE ...]

  python -m experiments.report --config.run=runs/grpo_smollm2_arithmetic
  python -m experiments.report --config.run=runs/mine --config.out=mine.html

A finished run has its page already: report.html in its workdir.  The page is one file; it loads nothing and runs no
script.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import command
from experiments.a2c.algorithm import A2C
from experiments.algorithm import Algorithm
from experiments.configdict import from_config
from experiments.dpo.algorithm import DPO
from experiments.grpo.algorithm import GRPO
from experiments.online_dpo.algorithm import ONLINE_DPO
from experiments.ppo.algorithm import PPO
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.sft.algorithm import SFT
from experiments.workdir import Workdir
from lqlm.errors import UserError
from lqlm.io.report.page import write_report

DEFAULT = "configs/report.py"
ALGORITHMS = (GRPO, SFT, REWARD_MODEL, PPO, A2C, DPO, ONLINE_DPO)


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


def algorithm_of(config: Mapping[str, Any]) -> Algorithm:
    """Whose run it is: the algorithm whose settings have the sections of a ``config.json``, or nearly so."""
    return min(ALGORITHMS, key=lambda one: len({f.name for f in dataclasses.fields(one.settings)} ^ config.keys()))


def main(config: Any) -> None:
    """Read a run's files, write its page, say where."""
    settings = from_config(ReportSettings, config)
    workdir = Workdir(pathlib.Path(settings.run))
    out = settings.out or workdir.report
    config = json.loads(workdir.config.read_text()) if workdir.config.exists() else {}
    write_report(workdir.path, out, algorithm_of(config).panels)
    print(out)


if __name__ == "__main__":
    command.run(main, ReportSettings, __doc__ or "", DEFAULT)
