"""Online DPO of a 4-bit model: pairs of its own samples, the better of which the reward decides.

usage: python -m experiments.online_dpo [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.online_dpo --config configs/online_dpo_smollm2_arithmetic.py
  python -m experiments.online_dpo --config configs/online_dpo_smollm2_arithmetic.py --config.workdir=runs/ipo \\
      --config.dpo.loss=ipo --config.run.pairs=4

Written into --config.workdir:
  metrics.jsonl   a line a step        summary.json   accuracy before and after, speed, memory, versions, settings
  samples.jsonl   completions to read  curves.png     the learning curves
  tensorboard/    both of these        adapter/       the finished adapter, for PEFT
  config.json     the settings         checkpoints/   the last ones
  report.html     all of it on a page, samples token by token

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.main import run
from experiments.online_dpo.algorithm import ONLINE_DPO as ALGORITHM

DEFAULT = "configs/online_dpo_smollm2_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
