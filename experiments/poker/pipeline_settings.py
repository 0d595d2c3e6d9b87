"""The settings of the pipeline from logs to an agent: frozen dataclasses, which hold every default."""

import dataclasses
import pathlib

from experiments.poker.ask import AskSettings
from experiments.poker.data_settings import LogSettings, SelectSettings, check_bots
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
from lqlm.poker.policy import Shapes
from lqlm.tasks.poker import PokerConfig

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
        check_bots("evaluate.opponents", self.opponents)
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

        if "draws" in self.ask.features and self.logs.game == "omaha":
            raise UserError("ask.features: draws are told in hold'em alone; leave them out where logs.game is 'omaha'")
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
