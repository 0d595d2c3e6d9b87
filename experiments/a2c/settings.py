"""The settings of an A2C run."""

import dataclasses

from experiments.ppo.settings import ActorCriticExperiment, EstimateSettings
from lqlm.algorithms.a2c import A2CConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class A2CExperiment(ActorCriticExperiment):
    """Everything that a run of ``experiments.a2c`` depends on: one update on each rollout, advantages as they are."""

    workdir: str = "runs/a2c"
    a2c: A2CConfig = A2CConfig()
    estimate: EstimateSettings = EstimateSettings(lam=1.0, whiten_advantages=False)

    @property
    def ptx_coef(self) -> float:
        """Weight of the pretraining rows in the loss."""
        return self.a2c.ptx_coef
