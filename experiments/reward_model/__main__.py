"""A reward model: a 4-bit model with adapters and a scalar head, trained on pairs of preferences.

usage: python -m experiments.reward_model [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.reward_model --config configs/reward_model_arithmetic.py
  python -m experiments.reward_model --config configs/reward_model_scores.py:regression,mine.jsonl
  python -m experiments.reward_model --config configs/reward_model_hh.py --config.workdir=runs/mine \\
      --config.data.source=mine.jsonl --config.data.heldout=200

A record of the data has a "chosen" and a "rejected" completion of its "prompt" (texts, or lists of messages), and maybe
a "margin"; without "prompt", both are whole conversations, or texts of the form "\\n\\nHuman: ...\\n\\nAssistant: ...".

With configs/reward_model_scores.py a record has one "completion" of its "prompt", and a "score": a number, or true or
false.

Written into --config.workdir:
  metrics.jsonl   a line a step        summary.json   accuracy before and after, speed, memory, versions, settings
  samples.jsonl   held-out pairs with  curves.png     the learning curves
                  their rewards        adapter/       the reward model, for PEFT and lqlm.io.reward_model
  tensorboard/    both of these        checkpoints/   the last ones
  config.json     the settings

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

from typing import Any

from experiments import command
from experiments.main import run
from experiments.reward_model.algorithm import REWARD_MODEL as ALGORITHM

DEFAULT = "configs/reward_model_arithmetic.py"


def main(config: Any) -> None:
    """One run, from settings to summary."""
    run(ALGORITHM, config)


if __name__ == "__main__":
    command.run(main, ALGORITHM.settings, __doc__ or "", DEFAULT)
