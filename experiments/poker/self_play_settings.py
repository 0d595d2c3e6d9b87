"""The settings of ``self-play``: frozen dataclasses, which hold every default."""

import dataclasses
import typing

from experiments.poker.ask import AskSettings
from experiments.poker.evaluate import AGENTS, GAMES_OF
from experiments.settings import Experiment, LoopSettings, ModelSettings
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.algorithms.mirror_objective import MirrorConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes
from lqlm.poker.record import Game


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """The hands whose decisions are learned from, and how much these are taken to be worth.

    Attributes:
        game: ``holdem``, no limit, or ``omaha``, pot limit.
        seats: at the table.
        hands: played in a step, one in each seat at least, so that there is something to decide.
        playouts: how often every legal answer of a decision is played on.
        scale: big blinds that are a value of 1.
        clip: of what an answer is worth beyond the policy's mean, in both directions, after the scale; 0: none.
    """

    game: typing.Literal["holdem", "omaha"] = "holdem"
    seats: int = 2
    hands: int = 32
    playouts: int = 4
    scale: float = 10.0
    clip: float = 3.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not 2 <= self.seats <= 10 or self.hands < self.seats:
            raise UserError(f"table: {self.seats} seats, {self.hands} hands; give 2 to 10 seats, and as many hands")
        if self.playouts < 1 or self.scale <= 0 or self.clip < 0:
            raise UserError(
                f"table: playouts {self.playouts}, scale {self.scale}, clip {self.clip}; "
                "give 1 or more, more than 0, and 0 or more"
            )


@dataclasses.dataclass(frozen=True)
class LeagueSettings:
    """Who takes the other seats: each time one of these, all as likely.

    Attributes:
        selves: how often the current policy is in the draw.
        members: earlier policies, at most; the oldest but the first goes where there are more.
        every: steps between two policies that are kept; the first is the one that training begins with.
        bots: who are in the draw besides.
    """

    selves: int = 2
    members: int = 4
    every: int = 10
    bots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _known("league.bots", self.bots)
        if min(self.selves, self.members) < 0 or self.every < 1 or self.members == 1:
            raise UserError(
                f"league: selves {self.selves}, members {self.members}, every {self.every}; "
                "give 0 or more selves, no members or 2 and more, every 1 or more"
            )
        if not (self.selves or self.members or self.bots):
            raise UserError("league: nobody sits there; give selves, members or bots")


@dataclasses.dataclass(frozen=True)
class PullSettings:
    """The pull towards a fixed policy.

    Attributes:
        towards: ``start``, the policy that training begins with; ``uniform``, all legal answers alike.
        alpha: how strong it is, in units of value.
    """

    towards: typing.Literal["start", "uniform"] = "start"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.alpha < 0:
            raise UserError(f"pull.alpha is {self.alpha}; give 0 or more")


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """Whom the policy plays when it is measured.

    Attributes:
        opponents: bots, each alone in all other seats; the policy that training began with always plays too.
        hands: of each of these matches, at least; every time the same cards.
    """

    opponents: tuple[str, ...] = ("call", "tight")
    hands: int = 256

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _known("match.opponents", self.opponents)
        if self.hands < 4:
            raise UserError(f"match.hands is {self.hands}; give 4 or more")


def _known(where: str, names: tuple[str, ...]) -> None:
    if unknown := sorted(set(names) - set(AGENTS)):
        raise UserError(f"{where}: no bot {unknown[0]!r}; give some of {', '.join(AGENTS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlayRun(LoopSettings):
    """How long, how wide, and what is written when.

    Attributes:
        rows: B, decisions of a step that are learned from, at most; drawn from those of its hands.
        updates: of the model on the values of a step.
    """

    rows: int = 32
    updates: int = 2

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "rows", "updates")
        if self.rows % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide run.rows {self.rows}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlayExperiment(Experiment):
    """Everything that a run of ``self-play`` depends on.

    Attributes:
        model: which plays, and how it is held.
        adapter: what is trained; earlier policies are kept as adapters, so that it cannot be all weights.
        ask: how a decision is put into words, as in the model's training.
        table: what is played.
        league: against whom.
        loss: ``mirror``, magnetic mirror descent as a policy gradient; ``replicator``, towards the same policy in the
            space of logits.
        mirror: the constants of the loss.
        pull: towards a fixed policy.
        shapes: what arrays are padded to at the table.
        match: how it is measured.
    """

    workdir: str = "runs/poker_self_play"
    model: ModelSettings = ModelSettings()
    adapter: AdapterConfig = LoraConfig()
    ask: AskSettings = AskSettings(chat=True)
    table: TableSettings = TableSettings()
    league: LeagueSettings = LeagueSettings()
    loss: typing.Literal["mirror", "replicator"] = "mirror"
    mirror: MirrorConfig = MirrorConfig(eta=0.5)
    pull: PullSettings = PullSettings()
    optim: OptimConfig = OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=2)
    shapes: Shapes = Shapes(rows=32)
    match: MatchSettings = MatchSettings()
    run: SelfPlayRun = SelfPlayRun()

    @property
    def game(self) -> Game:
        """What is played, as the table names it."""
        return GAMES_OF[self.table.game]

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.adapter, FullConfig) or getattr(self.adapter, "decomposes", False):
            raise UserError(
                "adapter: earlier policies are kept as adapters over one base; give a kind that leaves the base as it "
                "is, such as LoraConfig(rank=8)"
            )
        if "habits" in self.ask.features:
            raise UserError("ask.features: habits need the hands before; leave them out")
        if self.mesh:
            raise UserError(f"mesh is {self.mesh!r}; self-play runs on one device: leave it empty")
