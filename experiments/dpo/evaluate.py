"""How often the policy prefers the chosen completion of held-out pairs, against the reference and by itself."""

import numpy as np

from experiments.dpo.setup import DPOSetup
from experiments.pairs.step import write_samples
from experiments.run import Run
from lqlm.algorithms.dpo import Sums
from lqlm.algorithms.step import TrainState


def evaluate(run: Run[DPOSetup], state: TrainState, step: int) -> dict[str, float]:
    """TRL's metrics as ``eval/...``, and ``eval/logps/accuracies``: how often the chosen one is the likelier.

    Before the first step the policy is the reference, so every implicit reward is 0, and no pair a success.
    """
    sums = held_out(run, state)
    found = run.setup.functions.judge(sums)
    beta = run.setup.settings.dpo.beta
    rewards = beta * np.stack([sums.chosen - sums.ref_chosen, sums.rejected - sums.ref_rejected], axis=1)
    write_samples(run, step, rewards)
    return {f"eval/{name}": float(value) for name, value in found.items()}


def held_out(run: Run[DPOSetup], state: TrainState) -> Sums:
    """Summed log-probabilities of all held-out pairs, in host memory."""
    setup, settings = run.setup, run.setup.settings.run
    found = []
    for part, batch in setup.data.heldout_batches(settings.eval_batch, settings.eval_items, setup.mesh):
        sums = setup.functions.sums(setup.model.base, state.adapters, batch)
        found.append([np.asarray(x)[: len(part)] for x in sums])
    return Sums(*(np.concatenate(parts) for parts in zip(*found)))  # type: ignore[arg-type]
