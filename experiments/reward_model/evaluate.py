"""How well a reward model tells held-out pairs apart, or meets scores, and whether it knows how sure it may be."""

import jax.numpy as jnp
import numpy as np

from experiments.pairs.step import write_samples
from experiments.reward_model.setup import RewardModelSetup
from experiments.run import Run
from lqlm.algorithms.step import TrainState

NAMES = ("accuracy", "loss", "calibration_error", "margin", "mean_reward", "error", "correlation")


def evaluate(run: Run[RewardModelSetup], state: TrainState, step: int) -> dict[str, float]:
    """``eval/accuracy``, ``eval/loss``, ``eval/calibration_error``, ``eval/margin`` and ``eval/mean_reward``.

    Of single texts there is no margin; of regression ``eval/error`` and ``eval/correlation`` instead of accuracy and
    calibration.
    """
    scores, numbers = held_out(run, state)
    found = run.setup.functions.judge(jnp.asarray(scores), jnp.asarray(numbers))
    write_samples(run, step, scores)
    return {f"eval/{name}": float(found[name]) for name in NAMES if name in found}


def held_out(run: Run[RewardModelSetup], state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, 2] and margins [N] of the held-out pairs, or scores [N, 1] and targets [N] of single texts."""
    setup, settings = run.setup, run.setup.settings.run
    scores, numbers = [], []
    for part, batch in setup.data.heldout_batches(settings.eval_batch, settings.eval_items, setup.mesh):
        found = setup.functions.score(setup.model.base, state.adapters, batch)
        scores.append(np.asarray(found)[: len(part)])
        numbers += [pair.number for pair in part]
    return np.concatenate(scores), np.asarray(numbers, np.float32)
