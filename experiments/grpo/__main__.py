"""GRPO on a 4-bit model.

usage: python -m experiments.grpo [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.grpo --config configs/grpo_smollm2_arithmetic.py
  python -m experiments.grpo --config configs/grpo_smollm2_arithmetic.py --config.workdir=runs/mine \\
      --config.optim.learning_rate=1e-4 --config.run.steps=50

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
from experiments.grpo.algorithm import GRPO as ALGORITHM
from experiments.main import run

DEFAULT = "configs/grpo_smollm2_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
