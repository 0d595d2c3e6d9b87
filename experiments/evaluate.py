"""Greedy accuracy on the held-out problems."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.setup import Setup
from lqlm.generation.decode import Completions
from lqlm.tasks.base import Item, score
from lqlm.types import PyTree


def texts_of(setup: Setup, completions: Completions) -> list[list[str]]:
    """Decoded completions, ``[B][G]``, without special tokens and without what follows the end."""
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    return [[setup.model.tokenizer.decode(t[m].tolist()) for t, m in zip(*rows)] for rows in zip(tokens, mask)]


def accuracy(setup: Setup, adapters: PyTree) -> dict[str, float]:
    """Shares of held-out problems answered: ``eval/accuracy`` (lenient) and ``eval/accuracy_strict`` (format)."""
    run = setup.settings.run
    items = list(setup.task.heldout[: run.eval_items or None])
    base, adapters = setup.functions.policy(setup.model.base, adapters)
    scores = []
    for start in range(0, len(items), run.eval_batch):
        part = items[start : start + run.eval_batch]
        texts = _greedy(setup, base, adapters, part, run.eval_batch)
        scores += [score(setup.task, text, item) for text, item in zip(texts, part)]
    return {
        "eval/accuracy": float(np.mean([s.lenient for s in scores])),
        "eval/accuracy_strict": float(np.mean([s.strict for s in scores])),
    }


def _greedy(setup: Setup, base: PyTree, adapters: PyTree | None, items: Sequence[Item], size: int) -> list[str]:
    # The last batch is filled up with a copy of its first item, so that it has the shape of the others.
    filled = [*items, *[items[0]] * (size - len(items))]
    tokens, mask = setup.prompts.batch(filled)
    completions = setup.functions.greedy(base, adapters, tokens, mask, jax.random.key(0))
    return [texts[0] for texts in texts_of(setup, completions)[: len(items)]]
