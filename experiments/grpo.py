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

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.finish import finish, report
from experiments.loop import train
from experiments.run import open_run
from experiments.settings import GRPOExperiment
from experiments.setup import build
from experiments.workdir import claim, finished


def main(config: Any) -> None:
    """One run, from settings to summary; a run that is over is only reported."""
    command.use_compilation_cache()
    settings = from_config(GRPOExperiment, config)
    with claim(settings) as workdir:
        if not finished(workdir, settings.run.steps):
            with open_run(build(settings), workdir) as run:
                finish(run, train(run))
        print(report(workdir))


if __name__ == "__main__":
    command.run(main, GRPOExperiment, __doc__ or "", "configs/grpo_smollm2_arithmetic.py")
