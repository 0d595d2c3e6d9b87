"""The settings of online DPO: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.dpo.settings import check_reference
from experiments.rollouts.settings import RolloutExperiment, RolloutSettings
from lqlm.algorithms.dpo_config import WHOLE_BATCH, DPOConfig
from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(RolloutSettings):
    """How long, how wide, and what is written when.

    Attributes:
        group: G, samples of each prompt.
        pairs: K, pairs of each group: its best sample against its worst, the second best against the second worst.
    """

    group: int = 8
    pairs: int = 2

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "pairs")
        if 2 * self.pairs > self.group:
            raise UserError(
                f"run.pairs is {self.pairs} and run.group {self.group}; no sample is in two pairs, so give a group of "
                f"{2 * self.pairs} or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineDPOExperiment(RolloutExperiment):
    """Everything that a run of ``experiments.online_dpo`` depends on.

    Attributes:
        dpo: the loss; its reference is the base without adapters, also where ``start`` names some.
    """

    workdir: str = "runs/online_dpo"
    dpo: DPOConfig = DPOConfig()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        check_reference(self.adapter)
        if self.dpo.loss in WHOLE_BATCH:
            raise UserError(
                f"dpo.loss {self.dpo.loss!r} needs a pair in every row, and a group of equal rewards gives none; take "
                "'sigmoid' or another that looks at one pair"
            )
