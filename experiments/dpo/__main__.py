"""Direct preference optimization (and IPO, hinge, robust, ...) of a 4-bit model on pairs of preferences.

usage: python -m experiments.dpo [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.dpo --config configs/dpo_arithmetic.py
  python -m experiments.dpo --config configs/dpo_hh.py --config.dpo.loss=ipo --config.workdir=runs/ipo
  python -m experiments.dpo --config configs/dpo_hh.py --config.workdir=runs/mine \\
      --config.data.source=mine.jsonl --config.data.heldout=200

A record of the data has a "chosen" and a "rejected" completion of its "prompt" (texts, or lists of messages); without
"prompt", both are whole conversations, or texts of the form "\\n\\nHuman: ...\\n\\nAssistant: ...".

Written into --config.workdir:
  metrics.jsonl   a line a step        summary.json   held-out pairs before and after, speed, memory, versions, settings
  samples.jsonl   held-out pairs with  curves.png     the learning curves
                  implicit rewards     adapter/       the finished adapter, for PEFT
  tensorboard/    both of these        checkpoints/   the last ones
  config.json     the settings

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.dpo.algorithm import DPO as ALGORITHM
from experiments.main import run

DEFAULT = "configs/dpo_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
