"""The settings of a GRPO run: frozen dataclasses, which hold every default."""

import dataclasses
import typing

from experiments.rollouts.settings import RolloutExperiment, RolloutSettings
from lqlm.adapters.configs import FullConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(RolloutSettings):
    """How long, how wide, and what is written when.

    Attributes:
        group: G, samples of each prompt.
        updates: optimizer updates per rollout.
        scale: ``group`` (z-score, DeepSeekMath) or ``none`` (centred only, Dr. GRPO).
    """

    group: int = 8
    updates: int = 1
    scale: typing.Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if self.group < 2:
            raise UserError(f"run.group is {self.group}; a group needs at least 2 samples to be compared")
        self.at_least(1, "updates")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOExperiment(RolloutExperiment):
    """Everything that a run of ``experiments.grpo`` depends on."""

    workdir: str = "runs/grpo"
    grpo: GRPOConfig = GRPOConfig()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.adapter, FullConfig) and self.grpo.beta:
            raise UserError(
                f"grpo.beta is {self.grpo.beta}, but its reference, the base without adapters, is moved by full "
                "training; set grpo.beta to 0, or another adapter"
            )
