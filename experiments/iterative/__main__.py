"""Iterative GRPO (DeepSeekMath, arXiv:2402.03300, algorithm 1): policy and reward model learn by turns.

usage: python -m experiments.iterative [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.iterative --config configs/iterative_smollm2_arithmetic.py --config.iterations=3

Each iteration draws samples of the policy, goes on training the reward model on right against wrong ones and on a share
of old pairs, and trains the policy against it, with itself as the reference.

Written into --config.workdir:
  scores.json     of each policy the shares of held-out problems answered, and of each reward model the accuracy
  iteration_N/    samples/, new.jsonl, pairs.jsonl (new and old ones, what the reward model learned from) and
                  heldout.jsonl, reward_model/ and policy/, as experiments.reward_model and experiments.grpo write them

Killed at any moment, the same command goes on where it stopped.
"""

import json
import pathlib
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.iterative.iterations import folder, iterate
from experiments.iterative.settings import IterativeExperiment
from lqlm.io.disk import write_atomic

DEFAULT = "configs/iterative_smollm2_arithmetic.py"
NAMES = {"policy": ("accuracy", "accuracy_strict", "reward"), "reward_model": ("accuracy",)}


def main(config: Any) -> None:
    """All iterations, each scored by the runs that it is made of."""
    command.use_compilation_cache()
    settings = from_config(IterativeExperiment, config)
    scores: list[dict[str, float]] = []
    for number in range(settings.iterations):
        iterate(settings, number)
        scores.append(score(settings, number))
        write_atomic(pathlib.Path(settings.workdir) / "scores.json", json.dumps(scores, indent=2) + "\n")
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores[-1].items())
        print(f"\nafter iteration {number}: {told}\n")


def score(settings: IterativeExperiment, number: int) -> dict[str, float]:
    """What an iteration was worth: its policy before and after, and its reward model on new pairs held out."""
    where = folder(settings, number)
    found: dict[str, float] = {}
    for part, prefix in (("policy", ""), ("reward_model", "reward_model/")):
        summary = json.loads((where / part / "summary.json").read_text())
        for when in ("before", "after"):
            measured = {name: summary[when].get(f"eval/{name}") for name in NAMES[part]}
            found |= {f"{prefix}{name}/{when}": value for name, value in measured.items() if value is not None}
    return found


if __name__ == "__main__":
    command.run(main, IterativeExperiment, __doc__ or "", DEFAULT)
