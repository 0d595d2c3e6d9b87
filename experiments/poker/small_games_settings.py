"""The settings of ``train-small``: frozen dataclasses, which hold every default."""

import dataclasses
import typing

from experiments.settings import Experiment, LoopSettings, ModelSettings
from experiments.sft.settings import ScratchSettings
from lqlm.adapters.configs import AdapterConfig, FullConfig
from lqlm.algorithms.mirror_objective import MirrorConfig
from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class LeagueSettings:
    """Against whom actions are valued.

    Attributes:
        opponent: ``self``, the current policy; ``mean``, the average of all earlier ones, as in fictitious self-play
            (NFSP, arXiv:1603.01121); ``draw``, one earlier policy, drawn anew for each step.
        share: of the league in its mixture with the current policy, which is mixed for whole hands.
        every: steps between two policies that are kept for ``draw``.
        members: how many are kept; the oldest but the first goes where there are more.
    """

    opponent: typing.Literal["self", "mean", "draw"] = "self"
    share: float = 1.0
    every: int = 25
    members: int = 8

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not 0 < self.share <= 1 or self.every < 1 or self.members < 2:
            raise UserError(
                f"league: share {self.share}, every {self.every}, members {self.members}; "
                "give a share above 0, to 1, every 1 or more, and 2 members or more"
            )


@dataclasses.dataclass(frozen=True)
class EstimateSettings:
    """What an answer is taken to be worth.

    Attributes:
        kind: ``exact``, the value of every action; ``grpo``, z-scored values of sampled answers; ``reinforce``, values
            of sampled answers less the mean of the others of the group.
        group: answers sampled for each prompt.
        weights: what a state counts for: ``states``, all the same; ``reach``, how often play gets there.
    """

    kind: typing.Literal["exact", "grpo", "reinforce"] = "exact"
    group: int = 8
    weights: typing.Literal["states", "reach"] = "states"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.group < 2:
            raise UserError(f"estimate.group is {self.group}; a group has 2 samples or more")


@dataclasses.dataclass(frozen=True)
class MagnetSettings:
    """The pull towards uniform play, which falls geometrically over the run.

    Attributes:
        first: alpha of the first step, in antes.
        last: alpha of the last one.
    """

    first: float = 1.0
    last: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if min(self.first, self.last) <= 0:
            raise UserError(f"magnet: first {self.first}, last {self.last}; give more than 0")

    def alpha(self, done: float) -> float:
        """Alpha after that share of the run."""
        return self.first * (self.last / self.first) ** done


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallRunSettings(LoopSettings):
    """How long, how wide, and what is written when.

    Attributes:
        updates: of the model on the values of a step.
        rows: B, prompts of an update, drawn without replacement (0: all of the game).
        reference: iterations of CFR+, whose policy is the yardstick and the sound part of the bots with leaks.
    """

    updates: int = 1
    rows: int = 0
    reference: int = 100

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "updates", "reference")
        self.at_least(0, "rows")
        if self.rows % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide run.rows {self.rows}")
        if self.patience:
            raise UserError("run.patience has no meaning here: what is learned is measured, not held out; set it to 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallGamesExperiment(Experiment):
    """Everything that a run of ``train-small`` depends on.

    Attributes:
        game: which.
        rules: whether prompts begin with the rules of the game, which are the same in all of them.
        loss: ``mirror``, magnetic mirror descent as a policy gradient; ``replicator``, towards the same policy in the
            space of logits.
        mirror: the constants of the loss.
        magnet: the pull towards uniform play.
        estimate: what answers are worth.
        league: against whom.
    """

    workdir: str = "runs/poker_leduc"
    game: typing.Literal["kuhn", "leduc"] = "leduc"
    rules: bool = True
    model: ModelSettings | ScratchSettings = ScratchSettings()
    adapter: AdapterConfig = FullConfig()
    loss: typing.Literal["mirror", "replicator"] = "mirror"
    mirror: MirrorConfig = MirrorConfig()
    magnet: MagnetSettings = MagnetSettings()
    estimate: EstimateSettings = EstimateSettings()
    league: LeagueSettings = LeagueSettings()
    run: SmallRunSettings = SmallRunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.model, ScratchSettings) and not isinstance(self.adapter, FullConfig):
            raise UserError("model.kind 'scratch' has nothing to adapt yet; set adapter to FullConfig()")
        if self.mesh:
            raise UserError(f"mesh is {self.mesh!r}; train-small runs on one device: leave it empty")
