"""The settings of the pipeline from logs to an agent: frozen dataclasses, which hold every default."""

import dataclasses
import pathlib
import typing

from experiments.poker.ask import AskSettings
from experiments.poker.evaluate import AGENTS, GAMES_OF
from experiments.poker.tuning_settings import (
    AdaptSettings,
    GRPOStage,
    JudgeSettings,
    PairSettings,
    PPOStage,
    SelfPlayStage,
)
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.poker.arena.rules import Rules
from lqlm.poker.policy import Shapes
from lqlm.poker.select import Split, ranked_tiers
from lqlm.poker.state import WORDS
from lqlm.tasks.poker import PokerConfig

DECISIONS = WORDS[2:]
"""The words of a decision: those of antes and blinds come before."""
BEFORE: dict[str, tuple[str, ...]] = {
    "logs": (),
    "hands": ("logs",),
    "selected": ("hands",),
    "prompts": ("selected",),
    "records": ("prompts",),
    "sft": ("records",),
    "pairs": ("prompts",),
    "reward_model": ("pairs", "sft"),
    "ppo": ("selected", "records", "sft"),
    "grpo": ("selected", "sft"),
    "self_play": ("sft",),
    "evaluate": ("selected", "sft"),
}
"""Stage -> the stages whose files it reads, whatever the settings; :meth:`PipelineExperiment.before` has the others."""
STAGES = tuple(BEFORE)
LEARNED = ("sft", "reward_model", "ppo", "grpo", "self_play")
"""Stages that leave something that plays."""


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
        game: of own logs, and of the matches and the self-play of what has learned from logs: ``holdem``, no limit, or
            ``omaha``, pot limit.
    """

    source: tuple[str, ...] = ()
    sessions: int = 40
    hands: int = 50
    seats: int = 6
    bots: tuple[str, ...] = ("tight", "loose")
    game: typing.Literal["holdem", "omaha"] = "holdem"

    @property
    def rules(self) -> Rules:
        """What is played."""
        return Rules(game=GAMES_OF[self.game])

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
        by: what players are ranked by: what they ``won``, or as PokerGPT's released code has it, what they
            ``collected`` from pots, whatever they put in.
        min_hands: players with fewer training hands have no tier.
        top, bottom: the best share of players is ``high``, the worst ``negative``; both 0: by bounds, in mbb a hand.
        tiers: only players of these are learned from by SFT; empty: all.
        without: decisions that SFT does not learn, by their words; the released code's targets have no ``fold``.
        train, valid: shares of the sessions; the rest is for the test.
        seed: of the split.
    """

    cards: typing.Literal["known", "showdown"] = "known"
    by: typing.Literal["won", "collected"] = "won"
    min_hands: int = 100
    top: float = 0.0
    bottom: float = 0.0
    tiers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    train: float = 0.7
    valid: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        Split(self.train, self.valid, round(1 - self.train - self.valid, 12), self.seed)
        ranked_tiers([], self.top, self.bottom)
        if self.by == "collected" and not (self.top or self.bottom):
            raise UserError("select.by is 'collected': bounds are win rates; set select.top and select.bottom")
        if unknown := sorted(set(self.without) - set(DECISIONS)):
            raise UserError(f"select.without: {', '.join(unknown)}; give some of {', '.join(DECISIONS)}")

    @property
    def arguments(self) -> list[str]:
        """The same for the command line of ``select``."""
        argv = ["--cards", self.cards, "--by", self.by, "--min-hands", str(self.min_hands), "--seed", str(self.seed)]
        argv += ["--train", str(self.train), "--valid", str(self.valid)]
        return [*argv, "--top", str(self.top), "--bottom", str(self.bottom)] if self.top or self.bottom else argv


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
        test_hands: hands of the test and of the valid sessions whose decisions are predicted, evenly from all (0: all).
        texts: test prompts that are answered freely, to see how often what comes is none of the answers offered.
    """

    opponents: tuple[str, ...] = ("random", "call")
    seats: tuple[int, ...] = (2,)
    hands: int = 1000
    samples: int = 100
    rounds: int = 100
    temperature: float = 1.0
    shapes: Shapes = Shapes(rows=16)
    test_hands: int = 0
    texts: int = 200

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        _known("evaluate.opponents", self.opponents)
        counts = {name: getattr(self, name) for name in ("hands", "samples", "rounds", "texts")}
        if min(counts.values()) < 1 or self.test_hands < 0 or not all(2 <= count <= 10 for count in self.seats):
            raise UserError(f"evaluate: {counts}, seats {self.seats}; give 1 or more of each, seats from 2 to 10")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineExperiment:
    """Everything that the pipeline depends on.

    Attributes:
        workdir: each stage writes into a folder of its own there.
        seed: of own logs, of training and of matches.
        stages: which are run; each needs those whose files it reads.
        logs: where hands come from.
        select: which are learned from.
        ask: how a decision is put into words, in training and at the table.
        sft: how the model is trained.
        adapt: what is trained after that.
        task: the decisions of PPO and GRPO, and how they are played on; their files and words are the pipeline's own.
        pairs: which answers a reward model holds against each other.
        reward_model: how it is trained.
        ppo: reinforcement from the reward model.
        grpo: reinforcement from chips.
        self_play: at the table against a league of itself.
        evaluate: what each of them is held against.
    """

    workdir: str = "runs/poker"
    seed: int = 0
    stages: tuple[str, ...] = STAGES
    logs: LogSettings = LogSettings()
    select: SelectSettings = SelectSettings()
    ask: AskSettings = AskSettings(chat=True)
    sft: TrainSettings = TrainSettings()
    adapt: AdaptSettings = AdaptSettings()
    task: PokerConfig = PokerConfig(source="", heldout_source="")
    pairs: PairSettings = PairSettings()
    reward_model: JudgeSettings = JudgeSettings()
    ppo: PPOStage = PPOStage()
    grpo: GRPOStage = GRPOStage()
    self_play: SelfPlayStage = SelfPlayStage()
    evaluate: EvaluateSettings = EvaluateSettings()

    def folder(self, stage: str) -> pathlib.Path:
        """Where a stage writes."""
        return pathlib.Path(self.workdir) / stage

    def before(self, stage: str) -> tuple[str, ...]:
        """The stages whose files a stage reads."""
        more: tuple[str, ...] = ()
        if stage == "pairs" and self.pairs.by == "values":
            more = ("selected",)
        if stage == "ppo" and self.ppo.needs_judge:
            more = ("reward_model",)
        if stage in ("grpo", "self_play") and getattr(self, stage).start != "sft":
            more = (getattr(self, stage).start,)
        if stage == "evaluate":
            more = tuple(name for name in LEARNED[1:] if name in self.stages)
        return (*BEFORE[stage], *more)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        self._check_stages()
        full = isinstance(self.sft.adapter, FullConfig)
        if isinstance(self.sft.model, ScratchSettings) and not full:
            raise UserError("sft.model is of kind 'scratch': it has nothing to adapt; set sft.adapter to FullConfig()")
        if isinstance(self.sft.adapter, LoraConfig) and self.sft.adapter.decomposes:
            raise UserError(f"sft.adapter.init is {self.sft.adapter.init!r}, which changes the base; take another")

        if "habits" in self.ask.features and "evaluate" in self.stages:
            raise UserError("ask.features: habits need the hands before, which matches do not tell; leave them out")

    def _check_stages(self) -> None:
        unknown = sorted(set(self.stages) - set(STAGES))
        if unknown or not self.stages:
            raise UserError(f"stages is {self.stages}; give some of {', '.join(STAGES)}")
        for stage in self.stages:
            for needed in self.before(stage):
                if needed not in self.stages:
                    raise UserError(
                        f"stages: {stage} reads what {needed} leaves; name {needed} too, or leave out {stage}"
                    )
        rollouts = sorted({"ppo", "grpo"} & set(self.stages))
        if rollouts and not self.ask.chat:
            raise UserError(
                f"stage {rollouts[0]} asks in the chat template; set ask.chat to True, so that sft does too"
            )
