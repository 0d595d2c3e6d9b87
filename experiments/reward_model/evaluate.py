"""How well a reward model tells held-out pairs apart, and whether it knows how sure it may be."""

import jax.numpy as jnp
import numpy as np

from experiments.pairs.step import write_samples
from experiments.reward_model.setup import RewardModelSetup
from experiments.run import Run
from lqlm.algorithms.step import TrainState

NAMES = ("accuracy", "loss", "calibration_error", "margin", "mean_reward")


def evaluate(run: Run[RewardModelSetup], state: TrainState, step: int) -> dict[str, float]:
    """``eval/accuracy``, ``eval/loss``, ``eval/calibration_error``, ``eval/margin`` and ``eval/mean_reward``."""
    scores, margins = held_out(run, state)
    found = run.setup.functions.judge(jnp.asarray(scores), jnp.asarray(margins))
    write_samples(run, step, scores)
    return {f"eval/{name}": float(found[name]) for name in NAMES}


def held_out(run: Run[RewardModelSetup], state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, 2] and margins [N] of the held-out pairs."""
    setup, settings = run.setup, run.setup.settings.run
    scores, margins = [], []
    for part, batch in setup.data.heldout_batches(settings.eval_batch, settings.eval_items, setup.mesh):
        found = setup.functions.score(setup.model.base, state.adapters, batch)
        scores.append(np.asarray(found)[: len(part)])
        margins += [pair.margin for pair in part]
    return np.concatenate(scores), np.asarray(margins, np.float32)
