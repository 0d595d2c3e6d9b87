"""The four stages of R1: cold start, RL for reasoning, rejection sampling and SFT, RL for all.

usage: python -m experiments.r1 [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.r1 --config configs/r1_smollm2_arithmetic.py
  python -m experiments.r1 --config configs/r1_smollm2_arithmetic.py --config.stages="('reasoning',)"

Written into --config.workdir:
  scores.json  accuracy, strict accuracy and form on held-out problems, before the first and after every stage
  cold_start/  reasoning/  rejection/  alignment/   each as experiments.sft or experiments.grpo writes it, beside
               conversations.jsonl (what was learned) and rejection/rejection/ (all samples with their rewards)

Killed at any moment, the same command goes on where it stopped.  A stage goes on from the adapter that the one before
left, whenever that was; rejection trains the base anew, as the paper does.
"""

from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.r1.score import remember, scores, table
from experiments.r1.settings import R1Experiment
from experiments.r1.stages import folder, run_stage

DEFAULT = "configs/r1_smollm2_arithmetic.py"


def main(config: Any) -> None:
    """The stages that the settings name, each scored."""
    command.use_compilation_cache()
    settings = from_config(R1Experiment, config)
    remember(settings, "base", None)
    for stage in settings.stages:
        run_stage(settings, stage)
        remember(settings, stage, folder(settings, stage) / "adapter")
        print(f"\nafter stage {stage}:\n{table(scores(settings))}\n")


if __name__ == "__main__":
    command.run(main, R1Experiment, __doc__ or "", DEFAULT)
