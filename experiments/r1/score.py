"""What each stage is worth: the same held-out problems, answered greedily by what it left."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments import trained
from experiments.decoding import first_texts, make_sampler
from experiments.r1.settings import R1Experiment
from experiments.rollouts.drawing import adapter_digest
from experiments.rollouts.prompts import BUCKET_MULTIPLE, build_task
from lqlm.generation.rollout import round_up
from lqlm.io.disk import write_atomic
from lqlm.io.peft import load_peft
from lqlm.tasks.base import score

SCORES = "scores.json"
OF = "of"
"""What a score is of: the adapter's checksum, and how many problems."""
BATCH = 32


def scores(settings: R1Experiment) -> dict[str, dict[str, float]]:
    """Stage -> its scores, as far as they are known."""
    return {name: {key: x for key, x in one.items() if key != OF} for name, one in _known(settings).items()}


def _known(settings: R1Experiment) -> dict[str, dict[str, Any]]:
    path = pathlib.Path(settings.workdir) / SCORES
    return json.loads(path.read_text()) if path.exists() else {}


def remember(settings: R1Experiment, name: str, adapter: pathlib.Path | None) -> dict[str, float]:
    """Score a stage, once as long as it leaves the same adapter; ``base`` is the model before all of them.

    Args:
        settings: of the pipeline.
        name: of the stage, or "base".
        adapter: that the stage left, None for the base.
    """
    known, of = _known(settings), f"{adapter_digest(adapter or '')}/{settings.eval_items}"
    if known.get(name, {}).get(OF) != of:
        known[name] = {**measure(settings, adapter), OF: of}
        pathlib.Path(settings.workdir).mkdir(parents=True, exist_ok=True)
        write_atomic(pathlib.Path(settings.workdir) / SCORES, json.dumps(known, indent=2) + "\n")
    return scores(settings)[name]


def measure(settings: R1Experiment, adapter: pathlib.Path | None) -> dict[str, float]:
    """Shares of held-out problems answered, answered in the right form, and in that form; mean words of a reply."""
    task, model = build_task(settings.task), trained.load(settings.model, settings.adapter)
    base = trained.products(model.base, settings.model)
    adapters, kind = load_peft(adapter, model.config) if adapter else (None, settings.adapter)
    items = list(task.heldout)[: settings.eval_items or None]
    rows: list[Any] = [model.tokenizer.chat(task.messages(item)) for item in items]
    sampling = settings.reasoning.sampling
    greedy = make_sampler(model, type(sampling)(max_new_tokens=sampling.max_new_tokens, temperature=0.0), 1)
    sizes = {"size": min(BATCH, len(rows)), "length": round_up(max(map(len, rows)), BUCKET_MULTIPLE)}
    policy = trained.policy(kind, True, rows=sizes["size"])(base, adapters)
    texts = list(first_texts(greedy, policy, rows, model.tokenizer, **sizes))
    found = [score(task, text, item) for text, item in zip(texts, items)]
    return {
        "accuracy": float(np.mean([s.lenient for s in found])),
        "accuracy_strict": float(np.mean([s.strict for s in found])),
        "format": float(np.mean([task.strict(text) is not None for text in texts])),
        "words": float(np.mean([len(text.split()) for text in texts])),
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """The scores, a line a stage."""
    names = list(next(iter(found.values())))
    lines = [f"{'':12}" + "".join(f"{name:>17}" for name in names)]
    lines += [f"{stage:12}" + "".join(f"{one[name]:17.3f}" for name in names) for stage, one in found.items()]
    return "\n".join(lines)
