"""Every kind of adapter at equal steps on the same data: python -m benchmarks.adapters

Runs ``experiments.sft`` with ``configs/sft_adapters.py`` for each kind and seed, one after the other, and prints a
table of held-out perplexity and token accuracy, before and after.  A run that is over is not run again.  16 steps of 2
packed rows of 256 tokens with SmolLM2-135M-Instruct; other options, such as ``--config.run.steps=40``, are passed on:
with ``--config.run.generate=40`` the table also holds ROUGE-L of the greedy completions of 40 held-out prompts.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.memory import print_table
from configs.sft_adapters import KINDS

CONFIG = "configs/sft_adapters.py"
KEYS = {"eval/perplexity": "perplexity", "eval/mean_token_accuracy": "accuracy", "eval/rougeL": "ROUGE-L"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run left in its summary."""

    kind: str
    seed: int
    before: dict[str, float]
    after: dict[str, float]
    parameters: int
    seconds: float  # of the updates


def run(kind: str, seed: int, folder: pathlib.Path, options: Sequence[str]) -> Result:
    """One run in a process of its own, so that its memory is given back."""
    workdir = folder / f"{kind}-{seed}"
    settings = [f"--config.seed={seed}", f"--config.workdir={workdir}", *options]
    subprocess.run([sys.executable, "-m", "experiments.sft", "--config", f"{CONFIG}:{kind}", *settings], check=True)
    found = json.loads((workdir / "summary.json").read_text())
    return Result(kind, seed, found["before"], found["after"], found["trained_parameters"], found["seconds/update"])


def measured(results: Sequence[Result]) -> list[str]:
    """The metrics that every run has."""
    return [key for key in KEYS if all(key in r.after for r in results)]


def rows(results: Sequence[Result]) -> list[list[str]]:
    """A row for each kind: means over seeds, and the standard deviation where there are several."""
    table, keys = [], measured(results)
    for kind in dict.fromkeys(r.kind for r in results):
        same = [r for r in results if r.kind == kind]
        cells = [cell for key in keys for cell in _mean(same, key)]
        table.append([kind, str(len(same)), f"{same[0].parameters:,}", *cells, f"{_seconds(same):.0f}"])
    return table


def _mean(results: Sequence[Result], key: str) -> list[str]:
    """Before and after, as cells."""
    values = np.array([[r.before[key], r.after[key]] for r in results])
    spread = f" +- {values[:, 1].std(ddof=1):.3f}" if len(values) > 1 else ""
    return [f"{values[:, 0].mean():.3f}", f"{values[:, 1].mean():.3f}{spread}"]


def _seconds(results: Sequence[Result]) -> float:
    return float(np.mean([r.seconds for r in results]))


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not there yet, print the table, write the JSON."""
    parser = argparse.ArgumentParser("benchmarks.adapters", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/adapters"))
    parser.add_argument("--json", type=pathlib.Path, help="also write every run's figures to this file")
    options, rest = parser.parse_known_args(argv)
    results = [run(kind, seed, options.workdir, rest) for kind in options.kinds for seed in options.seeds]
    columns = [cell for key in measured(results) for cell in (f"{KEYS[key]} before", "after")]
    print_table(["kind", "seeds", "trained", *columns, "s of updates"], rows(results))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(r) for r in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
