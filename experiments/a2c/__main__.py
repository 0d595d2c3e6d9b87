"""A2C on a 4-bit model: policy, reference, value function and reward model share one base.

usage: python -m experiments.a2c [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.a2c --config configs/a2c_smollm2_arithmetic.py
  python -m experiments.a2c --config configs/a2c_smollm2_arithmetic.py --config.workdir=runs/mine \\
      --config.value.path=runs/reward_model/adapter --config.reward_model.path=runs/reward_model/adapter

Written into --config.workdir:
  metrics.jsonl   a line a step        summary.json   accuracy before and after, speed, memory, versions, settings
  samples.jsonl   completions to read  curves.png     the learning curves
  tensorboard/    both of these        adapter/       the finished policy, for PEFT
  config.json     the settings         value/         the finished value function, as a sequence classifier for PEFT
  checkpoints/    the last ones

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.a2c.algorithm import A2C as ALGORITHM
from experiments.main import run

DEFAULT = "configs/a2c_smollm2_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
