"""The settings of the R1 pipeline: frozen dataclasses, which hold every default."""

import dataclasses
from collections.abc import Mapping

from experiments.grpo.settings import RunSettings as RLRun
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.rollouts.drawing import DrawSettings
from experiments.rollouts.settings import RewardSettings, ScenarioSettings
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings as SFTRun
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.pairs import PairConfig

STAGES = ("cold_start", "reasoning", "rejection", "alignment")
REASONING = "reasoning"
"""The scenario of the pipeline's own task, where the last stage has others beside it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTStage:
    """Supervised fine-tuning within the pipeline.

    Attributes:
        examples: most conversations that are learned from.
        heldout: conversations of these that only the perplexity is measured on.
        max_length: tokens of a conversation.
        optim: how it is trained.
        run: how long, and what is written when.
    """

    examples: int = 64
    heldout: int = 8
    max_length: int = 256
    optim: OptimConfig = OptimConfig(learning_rate=2e-4)
    run: SFTRun = SFTRun()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not 0 < self.heldout < self.examples:
            raise UserError(
                f"heldout is {self.heldout}, examples {self.examples}; hold out at least 1, and fewer than all"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLStage:
    """GRPO within the pipeline.

    Attributes:
        rewards: components of the reward.
        sampling: of the rollouts.
        grpo: the loss.
        optim: how it is trained.
        run: how long, how wide, and what is written when.
    """

    rewards: Mapping[str, RewardSettings]
    sampling: SamplingConfig = SamplingConfig()
    grpo: GRPOConfig = GRPOConfig(beta=0.0)
    optim: OptimConfig = OptimConfig(learning_rate=2e-4)
    run: RLRun = RLRun()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectionStage(DrawSettings, SFTStage):
    """Samples of the policy, the good ones kept, and supervised fine-tuning of the base on these.

    Attributes:
        keep: of each problem's accepted completions, the shortest so many, all different.
        others: records of other kinds that are learned beside them (a file of any form that ``experiments.sft`` reads),
            as the paper does, so that the rest is not forgotten; empty: none.
        most_others: records of these, at most.
    """

    keep: int = 1
    others: str = ""
    most_others: int = 64

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        SFTStage.__post_init__(self)
        DrawSettings.__post_init__(self)
        if min(self.keep, self.most_others) < 1:
            raise UserError(f"rejection: keep {self.keep}, most_others {self.most_others}; give 1 or more of each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The reward model of the last stage.

    Attributes:
        weight: of its score in the reward; 0: there is none, and rules alone decide.
        scenarios: those whose completions it judges; empty: all.
        data: pairs of preferences; without a source, accepted against refused samples of the same problem, from the
            stage before.
        text: how pairs are read.
        reward: its loss.
        optim: how it is trained.
        run: how long, and what is written when.
    """

    weight: float = 0.2
    scenarios: tuple[str, ...] = ()
    data: PairData = PairData(heldout=8)
    text: PairConfig = PairConfig(unusable="skip")
    reward: RewardModelConfig = RewardModelConfig(center=0.01)
    optim: OptimConfig = OptimConfig(learning_rate=2e-4)
    run: PairRunSettings = PairRunSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentStage(RLStage):
    """GRPO for rules and a reward model, on the pipeline's task and other scenarios.

    Attributes:
        judge: the reward model.
        others: scenario -> task, beside the pipeline's own, which is called ``reasoning``; rewards and reward model
            name those that they judge.
    """

    judge: JudgeSettings = JudgeSettings()
    others: Mapping[str, ScenarioSettings] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if REASONING in self.others:
            raise UserError(f"alignment.others has {REASONING!r}, the scenario of the pipeline's task; rename yours")


@dataclasses.dataclass(frozen=True, kw_only=True)
class R1Experiment:
    """Everything that the pipeline depends on.

    Attributes:
        workdir: each stage writes into a folder of its own there, and ``scores.json`` tells what each was worth.
        seed: of all that is drawn.
        stages: which are run, in the order of the paper; each goes on from what the one before left in the workdir.
        zero: reasoning begins with the base, without a cold start (R1-Zero).
        model: which, and how it is held.
        adapter: what is trained; each stage but rejection goes on training it.
        task: problems with a form for reasoning and answer.
        eval_items: held-out problems that each stage is scored on (0: all).
        cold_start: SFT on the task's own worked solutions.
        reasoning: RL for right answers in the right form.
        rejection: sampling, filtering, and SFT of the base.
        alignment: RL for rules and a reward model.
    """

    workdir: str = "runs/r1"
    seed: int = 0
    stages: tuple[str, ...] = STAGES
    zero: bool = False
    model: ModelSettings = ModelSettings()
    adapter: LoraConfig = LoraConfig()
    task: ScenarioSettings
    eval_items: int = 0
    cold_start: SFTStage = SFTStage()
    reasoning: RLStage
    rejection: RejectionStage
    alignment: AlignmentStage

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not self.stages or tuple(stage for stage in STAGES if stage in self.stages) != tuple(self.stages):
            raise UserError(f"stages is {self.stages}; give some of {', '.join(STAGES)}, in this order")
        if self.zero and "cold_start" in self.stages:
            raise UserError("zero is set, which is to begin without a cold start; leave cold_start out of stages")
        if self.adapter.decomposes:
            raise UserError(f"adapter.init is {self.adapter.init!r}, which changes the base; take one that does not")
        if self.eval_items < 0:
            raise UserError(f"eval_items is {self.eval_items}; give 0 (all) or more")
