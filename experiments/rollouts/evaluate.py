"""Greedy accuracy on the held-out problems, and what else the task measures of the answers."""

import numpy as np

from experiments.decoding import first_texts
from experiments.rollouts.setup import RolloutSetup
from experiments.run import Run
from lqlm.generation.rollout import bucket_for
from lqlm.tasks.base import score
from lqlm.types import PyTree


def accuracy(run: Run, adapters: PyTree) -> dict[str, float]:
    """Shares of held-out problems answered: ``eval/accuracy`` (lenient) and ``eval/accuracy_strict`` (format).

    The means of the task's own measures stand beside them as ``eval/NAME``.
    """
    setup: RolloutSetup = run.setup
    settings, sampling = setup.settings.run, setup.sampling
    items = list(setup.task.heldout[: settings.eval_items or None])
    rows = [setup.prompts.tokens[item.id] for item in items]
    policy = sampling.policy(setup.model.base, adapters)
    texts: list[str] = []
    for start in range(0, len(rows), settings.eval_batch):
        part = slice(start, start + settings.eval_batch)
        length = bucket_for(max(map(len, rows[part])), setup.prompts.buckets)
        sizes = {"size": settings.eval_batch, "length": length}
        texts += first_texts(sampling.greedy, policy, rows[part], setup.model.tokenizer, **sizes)
    answered = list(zip(texts, items, strict=True))
    scores = [score(setup.task, text, item) for text, item in answered]
    measured = {name: [measure(*each) for each in answered] for name, measure in setup.task.measures.items()}
    return {
        "eval/accuracy": float(np.mean([s.lenient for s in scores])),
        "eval/accuracy_strict": float(np.mean([s.strict for s in scores])),
        **{f"eval/{name}": float(np.mean(values)) for name, values in measured.items()},
    }
