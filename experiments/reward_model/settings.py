"""The settings of a reward model: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.pairs.settings import PairExperiment
from lqlm.adapters.configs import Ia3Config, LoraConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.algorithms.scored import SINGLE
from lqlm.errors import UserError
from lqlm.tasks.scored import ScoredConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelExperiment(PairExperiment):
    """Everything that a run of ``experiments.reward_model`` depends on.

    Attributes:
        reward: the loss.
        head: standard deviation of the head's initial kernel, in units of ``1 / sqrt(D + 1)``; well below 1 where the
            model's last hidden states are large, so that the first rewards are not.
        bins: of the calibration error, between the confidences 1/2 and 1.
    """

    workdir: str = "runs/reward_model"
    reward: RewardModelConfig = RewardModelConfig()
    head: float = 0.1
    bins: int = 10

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if not isinstance(self.adapter, LoraConfig | Ia3Config):
            raise UserError("a reward model is written with LoRA or (IA)^3 only; set adapter.kind to lora or ia3")
        single = isinstance(self.text, ScoredConfig)
        if single and (self.reward.loss not in SINGLE or self.reward.center):
            raise UserError(
                f"reward.loss is {self.reward.loss!r}, reward.center {self.reward.center}, and text is of single texts "
                f"with scores; set {' or '.join(SINGLE)}, and center 0"
            )
        if not single and self.reward.loss == "regression":
            raise UserError(
                "reward.loss is 'regression', which learns scores of single texts; give a text of that kind"
            )
        if self.bins < 1 or self.head < 0:
            raise UserError(f"bins is {self.bins}, head {self.head}; give 1 or more, and 0 or more")
