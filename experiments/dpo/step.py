"""One step of DPO: the next pairs, the reference's log-probabilities, and an update on them."""

from typing import Any

import jax

from experiments.dpo.setup import DPOSetup
from experiments.pairs.step import next_pairs, updated
from experiments.run import Run
from lqlm.algorithms.step import TrainState


def one_step(run: Run[DPOSetup], state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One update; a function of (state, step) alone, so that a resumed run repeats it."""
    setup, (batch, tokens) = run.setup, next_pairs(run, step)
    with run.timers.phase("logprob") as lap:
        ref = jax.block_until_ready(setup.functions.reference(setup.model.base, batch))
        lap.tokens += tokens
    return updated(run, state, step, batch.replace(ref_logp_BGC=ref), setup.functions.update)  # type: ignore[attr-defined]
