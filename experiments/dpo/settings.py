"""The settings of DPO: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.pairs.settings import PairExperiment
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.algorithms.dpo_config import WHOLE_BATCH, DPOConfig
from lqlm.errors import UserError
from lqlm.tasks.pairs import PairConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPOExperiment(PairExperiment):
    """Everything that a run of ``experiments.dpo`` depends on.

    Attributes:
        dpo: the loss; its reference is the base without adapters, also where ``start`` names some.
    """

    workdir: str = "runs/dpo"
    text: PairConfig = PairConfig()
    dpo: DPOConfig = DPOConfig()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        check_reference(self.adapter)
        if self.dpo.loss in WHOLE_BATCH and self.run.micro_batches > 1:
            raise UserError(
                f"dpo.loss {self.dpo.loss!r} compares the pairs of a whole batch; set run.micro_batches to 1"
            )


def check_reference(adapter: AdapterConfig) -> None:
    """Refuse adapters that change the base, which without them is the reference."""
    decomposes = isinstance(adapter, LoraConfig) and adapter.decomposes
    if isinstance(adapter, FullConfig) or decomposes:
        raise UserError(
            "the reference of DPO is the base without adapters, and this adapter (full, pissa, olora or loftq) "
            "changes the base; train a LoRA of init 'kaiming' or 'gaussian'"
        )
