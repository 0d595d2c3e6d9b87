"""The settings of what is learned after supervised fine-tuning: pairs, reward model, PPO, GRPO and self-play."""

import dataclasses
import typing
from collections.abc import Mapping

from experiments.grpo.settings import RunSettings as GRPORun
from experiments.pairs.settings import PairRunSettings
from experiments.poker.self_play_settings import (
    LeagueSettings,
    MatchSettings,
    PullSettings,
    SelfPlayRun,
    TableSettings,
)
from experiments.ppo.settings import EstimateSettings
from experiments.ppo.settings import RunSettings as PPORun
from experiments.rollouts.settings import RewardSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.algorithms.mirror_objective import MirrorConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QuantConfig

SAMPLING = SamplingConfig(max_new_tokens=16)
"""Room for the longest answer, in either template."""
CHIPS = {"chips": RewardSettings("lqlm.rewards.poker.chips")}


@dataclasses.dataclass(frozen=True)
class AdaptSettings:
    """What is trained after SFT, where SFT trained all weights; the adapter of an SFT that trained one goes on itself.

    Attributes:
        quantize: hold the linear layers of the trained model in 4 bits (see ``quant``); else dense.
        quant: codebook and blocks.
        adapter: over it, new for each stage unless it goes on from another's.
    """

    quantize: bool = False
    quant: QuantConfig = QuantConfig()
    adapter: LoraConfig = LoraConfig(rank=8, alpha=16.0)


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """Which of two answers to a training prompt is the better one: the player's own, or another legal one, drawn.

    - random: the player's own (PokerGPT's released code).
    - tiers: the own one of the best players, the other one of the worst (the paper: win rates as labels).
    - values: the one that wins more chips when the hand is played on, as ``task`` says (ours).

    Attributes:
        by: one of these.
        best, worst: names of tiers, for ``tiers``.
        lead: big blinds that the better one must win more, for ``values``; where it does not, there is no pair.
        limit: decisions, at most, from all over the file (0: all).
    """

    by: typing.Literal["random", "tiers", "values"] = "random"
    best: tuple[str, ...] = ("high",)
    worst: tuple[str, ...] = ("negative",)
    lead: float = 0.5
    limit: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.limit < 0 or self.lead < 0:
            raise UserError(f"pairs.limit is {self.limit}, pairs.lead {self.lead}; give 0 or more")
        if set(self.best) & set(self.worst) or not (self.best or self.worst):
            raise UserError(
                f"pairs.best is {self.best}, pairs.worst {self.worst}; name some tiers, none of them in both"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The reward model, on pairs, over the model that SFT left.

    Attributes:
        heldout: pairs that only its accuracy is measured on.
        reward: its loss.
        optim: how it is trained.
        run: how long, and what is written when.
    """

    heldout: int = 64
    reward: RewardModelConfig = RewardModelConfig(center=0.01)
    optim: OptimConfig = OptimConfig()
    run: PairRunSettings = PairRunSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOStage:
    """PPO from what SFT left, with the divergence from it taken off the reward.

    Attributes:
        judge: weight of the reward model's score (the paper's reward); 0: it is not asked.
        rewards: functions whose values are added, such as chips; with ``judge`` 0 they are all there is.
        value: what the value function begins as: the reward model, as in the paper, or a head of zeros.
        ptx_rows: rows of SFT beside each update, with ``ppo.ptx_coef`` (PPO-ptx); 0: none.
        sampling: of the answers.
        kl: the divergence from SFT.
        ppo: the loss.
        estimate: from rewards to advantages.
        optim: how it is trained.
        run: how long, how wide, and what is written when.
    """

    judge: float = 1.0
    rewards: Mapping[str, RewardSettings] = dataclasses.field(default_factory=dict)
    value: typing.Literal["reward_model", "new"] = "reward_model"
    ptx_rows: int = 0
    sampling: SamplingConfig = SAMPLING
    kl: KLConfig = KLConfig()
    ppo: PPOConfig = PPOConfig()
    estimate: EstimateSettings = EstimateSettings()
    optim: OptimConfig = OptimConfig()
    run: PPORun = PPORun()

    @property
    def needs_judge(self) -> bool:
        """Whether the reward model is read."""
        return bool(self.judge) or self.value == "reward_model"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not self.judge and not self.rewards:
            raise UserError("ppo.judge is 0 and ppo.rewards is empty; there must be some reward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOStage:
    """GRPO on chips.

    Attributes:
        start: the stage whose policy it goes on from, and which its divergence is taken from.
        rewards: functions whose values are added.
        sampling: of the answers.
        grpo: the loss.
        optim: how it is trained.
        run: how long, how wide, and what is written when.
    """

    start: typing.Literal["sft", "ppo"] = "sft"
    rewards: Mapping[str, RewardSettings] = dataclasses.field(default_factory=lambda: dict(CHIPS))
    sampling: SamplingConfig = SAMPLING
    grpo: GRPOConfig = GRPOConfig()
    optim: OptimConfig = OptimConfig()
    run: GRPORun = GRPORun()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlayStage:
    """Self-play at the table, see ``self-play``.

    Attributes:
        start: the stage whose policy it goes on from.
        table: at what; the game is that of ``logs``.
        league: against whom.
        loss: ``mirror`` or ``replicator``.
        mirror: the constants of the loss.
        pull: towards a fixed policy.
        match: how it is measured.
        optim: how it is trained.
        run: how long, how wide, and what is written when.
    """

    start: typing.Literal["sft", "ppo", "grpo"] = "sft"
    table: TableSettings = TableSettings()
    league: LeagueSettings = LeagueSettings()
    loss: typing.Literal["mirror", "replicator"] = "mirror"
    mirror: MirrorConfig = MirrorConfig(eta=0.5)
    pull: PullSettings = PullSettings()
    match: MatchSettings = MatchSettings()
    optim: OptimConfig = OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=2)
    run: SelfPlayRun = SelfPlayRun()
