"""One step on pairs: the next batch, and an update on it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.keys import keys
from experiments.mesh import keyed
from experiments.pairs.setup import PairSetup
from experiments.run import Run
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.step import Metrics, TrainState

Update = Callable[..., tuple[TrainState, Metrics]]


def next_pairs(run: Run[Any], step: int) -> tuple[PairBatch, int]:
    """The batch of a step, and its tokens; a function of the step alone, so that a resumed run repeats it."""
    setup: PairSetup = run.setup
    with run.timers.phase("data"):
        return setup.data.at(step, setup.settings.run.pairs, setup.settings.seed, setup.mesh)


def updated(
    run: Run[Any], state: TrainState, step: int, batch: PairBatch, update: Update
) -> tuple[TrainState, dict[str, Any]]:
    """One optimizer update; tokens and epochs are counted."""
    setup, history = run.setup, run.history
    key = jax.random.fold_in(keys(setup.settings.seed)[1], step)
    with run.timers.phase("update") as lap:
        args = (setup.model.base, batch, keyed(setup.mesh, key))
        state, found = jax.block_until_ready(update(state, *args))
        metrics = {name: np.asarray(value) for name, value in found.items()}
        lap.tokens += int(metrics["tokens"])
    history["num_tokens"] = history.get("num_tokens", 0) + int(metrics["tokens"])
    epoch = (step + 1) * setup.settings.run.pairs / len(setup.data.train)
    return state, {**metrics, "num_tokens": history["num_tokens"], "epoch": epoch}


def write_samples(run: Run[Any], step: int, rewards: np.ndarray) -> None:
    """The first held-out pairs with the rewards [N, 2] of both sides; ``answer`` is the rejected completion.

    Of single texts the rewards are [N, 1], and the target stands beside each.
    """
    setup = run.setup
    shown = zip(setup.data.heldout[: setup.settings.run.samples], rewards.tolist())
    run.writer.samples(step, [_row(pair, scores) for pair, scores in shown])


def _row(pair: Any, scores: list[float]) -> dict[str, Any]:
    prompt, completion, *other = pair.texts
    told = zip(("chosen", "rejected"), scores) if other else (("score", scores[0]), ("target", pair.number))
    return {"prompt": prompt, "completion": completion, "answer": "".join(other), "rewards": dict(told)}
