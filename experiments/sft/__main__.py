"""Supervised fine-tuning of a 4-bit model, and pretraining of a small one from the beginning.

usage: python -m experiments.sft [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.sft --config configs/sft_smollm2_arithmetic.py
  python -m experiments.sft --config configs/sft_smollm2_arithmetic.py --config.data.source=mine.jsonl \\
      --config.data.heldout=100 --config.workdir=runs/mine
  python -m experiments.sft --config configs/pretrain_tiny.py

A record of the data is a conversation ("messages"), a "prompt" with its "completion", an "instruction" with its
"output" (and maybe an "input"), or a "text".

Written into --config.workdir:
  metrics.jsonl   a line a step        summary.json   perplexity before and after, speed, memory, versions, settings
  samples.jsonl   completions to read  curves.png     the learning curves
  tensorboard/    both of these        adapter/       the finished adapter, for PEFT; model/ where all weights learn
  config.json     the settings         checkpoints/   the last ones
  report.html     all of it on a page

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.main import run
from experiments.sft.algorithm import SFT as ALGORITHM

DEFAULT = "configs/sft_smollm2_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
