"""Greedy accuracy of the policy on the held-out problems."""

from experiments.ppo.setup import ActorCriticSetup
from experiments.rollouts.evaluate import accuracy
from experiments.run import Run
from lqlm.algorithms.step import TrainState


def evaluate(run: Run[ActorCriticSetup], state: TrainState, step: int) -> dict[str, float]:
    """``eval/accuracy`` (lenient) and ``eval/accuracy_strict`` (format) of the policy."""
    return accuracy(run, state.adapters["policy"])
