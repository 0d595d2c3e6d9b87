"""The settings of the pipeline from logs to an agent: frozen dataclasses, which hold every default."""

import dataclasses
import typing

from experiments.poker.agent import AskSettings
from experiments.poker.evaluate import AGENTS
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes
from lqlm.poker.select import Split


def _known(where: str, names: tuple[str, ...]) -> None:
    unknown = sorted(set(names) - set(AGENTS))
    if unknown or not names:
        raise UserError(f"{where} is {names}; give some of {', '.join(AGENTS)}")


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """Where logs come from: files, or bots that play each other.

    Attributes:
        source: files, folders or globs that ``parse`` reads; empty: own logs, made as the rest says.
        sessions: tables, each a file; a split does not cut them.
        hands: of each session.
        seats: players at a table.
        bots: who sits there, drawn for each session.
    """

    source: tuple[str, ...] = ()
    sessions: int = 40
    hands: int = 50
    seats: int = 6
    bots: tuple[str, ...] = ("tight", "loose")

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if min(self.sessions, self.hands) < 1 or not 2 <= self.seats <= 10:
            raise UserError(
                f"logs: {self.sessions} sessions of {self.hands} hands with {self.seats} seats; give 1 or more and 2-10"
            )
        _known("logs.bots", self.bots)


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """Which hands are learned from, see ``select --help``.

    Attributes:
        cards: which cards count as known: all that the log tells, or those of a showdown.
        min_hands: players with fewer training hands have no tier.
        tiers: only players of these are learned from; empty: all.
        train, valid: shares of the sessions; the rest is for the test.
        seed: of the split.
    """

    cards: typing.Literal["known", "showdown"] = "known"
    min_hands: int = 100
    tiers: tuple[str, ...] = ()
    train: float = 0.7
    valid: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        Split(self.train, self.valid, round(1 - self.train - self.valid, 12), self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Supervised fine-tuning on the prompts, as ``experiments.sft`` does it.

    Attributes:
        model: a small one from the beginning, or any model; ``quantize`` and a LoRA make it QLoRA.
        adapter: what is trained; all weights of a model from the beginning.
        limit: decisions that are learned from, at most (0: all).
        heldout: decisions of the valid sessions that perplexity is measured on (0: all).
        max_length: tokens of a prompt with its answer; longer ones are left out.
        optim: how it is trained.
        run: how long, how wide, and what is written when.
    """

    model: ModelSettings | ScratchSettings = ScratchSettings()
    adapter: AdapterConfig = FullConfig()
    limit: int = 0
    heldout: int = 256
    max_length: int = 256
    optim: OptimConfig = OptimConfig(learning_rate=2e-3)
    run: RunSettings = RunSettings()


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What the agent is held against.

    Attributes:
        opponents: bots that it plays against.
        seats: at each of these numbers of seats, all others taken by the same bot.
        hands: of each of these matches, at least.
        samples: random deals for the equity of a decision, which the boosted trees see.
        rounds: of boosting.
        temperature: of the agent's probabilities.
        shapes: what arrays are padded to.
    """

    opponents: tuple[str, ...] = ("random", "call")
    seats: tuple[int, ...] = (2,)
    hands: int = 1000
    samples: int = 100
    rounds: int = 100
    temperature: float = 1.0
    shapes: Shapes = Shapes(rows=16)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        _known("evaluate.opponents", self.opponents)
        if min(self.hands, self.samples, self.rounds) < 1 or not all(2 <= count <= 10 for count in self.seats):
            raise UserError(
                f"evaluate: hands {self.hands}, samples {self.samples}, rounds {self.rounds}, seats {self.seats}; "
                "give 1 or more of each, seats from 2 to 10"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineExperiment:
    """Everything that the pipeline depends on.

    Attributes:
        workdir: each stage writes into a folder of its own there.
        seed: of own logs, of training and of matches.
        logs: where hands come from.
        select: which are learned from.
        ask: how a decision is put into words, in training and at the table.
        sft: how the model is trained.
        evaluate: what it is held against.
    """

    workdir: str = "runs/poker"
    seed: int = 0
    logs: LogSettings = LogSettings()
    select: SelectSettings = SelectSettings()
    ask: AskSettings = AskSettings()
    sft: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        full = isinstance(self.sft.adapter, FullConfig)
        if isinstance(self.sft.model, ScratchSettings) and (not full or self.ask.chat):
            raise UserError(
                "sft.model is of kind 'scratch': it has nothing to adapt and no chat template; set sft.adapter to "
                "FullConfig() and ask.chat to False"
            )
        if isinstance(self.sft.adapter, LoraConfig) and self.sft.adapter.decomposes:
            raise UserError(f"sft.adapter.init is {self.sft.adapter.init!r}, which changes the base; take another")
