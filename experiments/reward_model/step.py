"""One step of a reward model; a function of (state, step) alone, so that a resumed run repeats it."""

from typing import Any

from experiments.pairs.step import next_pairs, updated
from experiments.reward_model.setup import RewardModelSetup
from experiments.run import Run
from lqlm.algorithms.step import TrainState


def one_step(run: Run[RewardModelSetup], state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One update on the next pairs."""
    batch, _ = next_pairs(run, step)
    return updated(run, state, step, batch, run.setup.functions.update)
