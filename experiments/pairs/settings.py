"""The settings that a reward model and DPO share: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.settings import Experiment, LoopSettings, ModelSettings
from lqlm.errors import UserError
from lqlm.tasks.pairs import PairConfig
from lqlm.tasks.scored import ScoredConfig


@dataclasses.dataclass(frozen=True)
class PairData:
    """Which pairs are learned from, and which are held out.

    Attributes:
        source: a .jsonl or .json file (each also .gz), a directory, or a data set of ``datasets``; empty: right against
            wrong answers to sums and differences, made here.
        split: of a data set that ``datasets`` reads.
        subset: the same.
        data_files: of a builder of ``datasets``, such as "json" or "parquet".
        limit: records that are read, at most (0: all).
        heldout: pairs held out; a hash of their prompts decides which, whatever the seed.
        heldout_source: a file or data set of pairs to hold out, all of them, instead of some of the source's; what
            shares a prompt with them is not learned from.
    """

    source: str = ""
    split: str = "train"
    subset: str | None = None
    data_files: tuple[str, ...] = ()
    limit: int = 0
    heldout: int = 64
    heldout_source: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.limit < 0 or self.heldout < 1:
            raise UserError(f"data.limit is {self.limit}, data.heldout {self.heldout}; give 0 or more, and 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRunSettings(LoopSettings):
    """How long, how wide, and what is written when.

    Attributes:
        pairs: B, pairs of a step; ``micro_batches`` divides it.
        eval_items: held-out pairs per evaluation (0: all).
        eval_batch: pairs evaluated at once.
        samples: held-out pairs written to ``samples.jsonl`` at each evaluation.
    """

    pairs: int = 8
    eval_batch: int = 8

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "pairs")
        if self.pairs % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide run.pairs {self.pairs}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairExperiment(Experiment):
    """Everything that a run on pairs depends on, whatever the loss."""

    model: ModelSettings = ModelSettings()
    data: PairData = PairData()
    text: PairConfig | ScoredConfig = PairConfig()
    run: PairRunSettings = PairRunSettings()
