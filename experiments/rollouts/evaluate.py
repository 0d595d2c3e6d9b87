"""Greedy answers to the held-out problems: how many are right, and what rewards say of those without an answer."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.decoding import texts_of
from experiments.rollouts.sample import judged
from experiments.rollouts.setup import RolloutSetup
from experiments.run import Run
from lqlm.generation.decode import Completions
from lqlm.tasks.base import Item, Task, score
from lqlm.types import PyTree

Pairs = Sequence[tuple[str, Item]]


class Answered(NamedTuple):
    """A batch of problems with their greedy completions; the last batch is filled up with copies of its first problem.

    Attributes:
        items: as many as the batch has rows.
        completions: of them, G = 1.
        pairs: texts and problems, without the copies.
    """

    items: Sequence[Item]
    completions: Completions
    pairs: Pairs


def accuracy(run: Run, adapters: PyTree) -> dict[str, float]:
    """Shares of held-out problems answered: ``eval/accuracy`` (lenient) and ``eval/accuracy_strict`` (format).

    Both are of the problems that have a reference answer, of a mixture of tasks also by scenario, as
    ``eval/accuracy/SCENARIO``.  Of the others ``eval/reward`` is the mean reward.  The means of the task's own measures
    stand beside them as ``eval/NAME``.
    """
    task, parts = run.setup.task, list(_answered(run, adapters))
    pairs = [pair for part in parts for pair in part.pairs]
    measured = {name: [measure(*each) for each in pairs] for name, measure in task.measures.items()}
    means = {f"eval/{name}": float(np.mean(values)) for name, values in measured.items()}
    return {**_right(task, [pair for pair in pairs if pair[1].answer]), **_worth(run, parts), **means}


def _answered(run: Run, adapters: PyTree) -> Iterator[Answered]:
    setup: RolloutSetup = run.setup
    settings, sampling = setup.settings.run, setup.sampling
    items, size = list(setup.task.heldout[: settings.eval_items or None]), settings.eval_batch
    policy = sampling.policy(setup.model.base, adapters)
    for start in range(0, len(items), size):
        part = items[start : start + size]
        filled = [*part, *[part[0]] * (size - len(part))]
        completions = sampling.greedy(*policy, *setup.prompts.batch(filled), jax.random.key(0))
        texts = [first for first, *_ in texts_of(setup.model.tokenizer, completions)]
        yield Answered(filled, completions, list(zip(texts, part)))


def _right(task: Task, pairs: Pairs) -> dict[str, float]:
    """Shares of the problems with a reference answer; none where there are none."""
    scores = [score(task, *pair) for pair in pairs]
    found = {
        f"eval/accuracy/{name}": [s.lenient for s, (_, item) in zip(scores, pairs) if item.scenario == name]
        for name in task.scenarios
    }
    if scores:
        found |= {"eval/accuracy": [s.lenient for s in scores], "eval/accuracy_strict": [s.strict for s in scores]}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _worth(run: Run, parts: Sequence[Answered]) -> dict[str, float]:
    """The mean reward of the problems without a reference answer; none where there are none."""
    found: list[float] = []
    for part in parts:
        bare = [i for i, (_, item) in enumerate(part.pairs) if not item.answer]
        found += judged(run, part.items, part.completions)[1].total[bare].tolist() if bare else []
    return {"eval/reward": float(np.mean(found))} if found else {}
