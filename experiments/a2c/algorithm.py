"""What A2C gives to the loop: PPO's step, with a loss of its own."""

import dataclasses

from experiments.a2c.settings import A2CExperiment
from experiments.ppo.algorithm import PPO
from experiments.ppo.setup import ActorCriticSetup, build_with
from lqlm.algorithms.a2c import a2c_objective


def build(settings: A2CExperiment) -> ActorCriticSetup:
    """All that a run of A2C needs."""
    entropy = bool(settings.a2c.entropy_coef)
    return build_with(settings, lambda score, text: a2c_objective(score, settings.a2c, text), entropy)


A2C = dataclasses.replace(PPO, settings=A2CExperiment, build=build)
