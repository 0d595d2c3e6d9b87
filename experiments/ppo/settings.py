"""The settings of an actor-critic run, and of PPO: frozen dataclasses, which hold every default."""

import dataclasses
import typing

from experiments.rollouts.settings import RolloutExperiment, RolloutSettings
from experiments.sft.settings import DataSettings
from lqlm.adapters.configs import FullConfig, Ia3Config, LoraConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.errors import UserError
from lqlm.tasks.records import InstructionConfig


@dataclasses.dataclass(frozen=True)
class ValueSettings:
    """The value function: adapters of its own over the policy's base, and a head.

    Attributes:
        path: a reward model's PEFT directory that it begins as; empty: new adapters, and a head of zeros.
        adapter: of new ones; a directory brings its own.
    """

    path: str = ""
    adapter: LoraConfig | Ia3Config = LoraConfig()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if getattr(self.adapter, "decomposes", False):
            raise UserError("value.adapter.init changes the base, which the value function shares; use 'kaiming'")


@dataclasses.dataclass(frozen=True)
class EstimateSettings:
    """From scores to advantages.

    Attributes:
        gamma: discount of later rewards.
        lam: of generalized advantage estimation: 0 trusts the values, 1 the rewards.
        score_at: where a completion's score stands: ``after`` its last token, as in TRL, or at the ``last`` one.
        missing_eos: taken off the score of a completion that has not come to its end.
        whiten_rewards: divide rewards by their spread over the rollout.
        whiten_advantages: and advantages, which also lose their mean.
    """

    gamma: float = 1.0
    lam: float = 0.95
    score_at: typing.Literal["after", "last"] = "after"
    missing_eos: float = 0.0
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not (0 < self.gamma <= 1 and 0 <= self.lam <= 1):
            raise UserError(
                f"estimate.gamma is {self.gamma}, estimate.lam {self.lam}; neither may exceed 1, gamma be 0 or lam less"
            )
        if self.missing_eos < 0:
            raise UserError(f"estimate.missing_eos is {self.missing_eos}; it is taken off the score: give 0 or more")


@dataclasses.dataclass(frozen=True)
class PretrainingSettings:
    """Other rows whose likelihood is raised in the same update, as in InstructGPT's PPO-ptx.

    Attributes:
        rows: of one update (0: none); their weight is ``ptx_coef`` of the loss.
        data: where they come from, read as by ``experiments.sft``; not streamed.
        text: how they become examples.
    """

    rows: int = 0
    data: DataSettings = DataSettings(heldout=1)
    text: InstructionConfig = InstructionConfig(max_length=128)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.rows < 0:
            raise UserError(f"pretraining.rows is {self.rows}; give 0 or more")
        if self.data.stream:
            raise UserError("pretraining.data.stream is on; rows beside a rollout are read at once: switch it off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCriticRun(RolloutSettings):
    """How long, how wide, and what is written when.

    Attributes:
        group: G, samples of each prompt.
    """

    group: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "group")

    @property
    def passes(self) -> tuple[int, int]:
        """Epochs over a rollout, and minibatches of each."""
        return 1, 1

    @property
    def updates(self) -> int:
        """Optimizer updates per rollout."""
        epochs, minibatches = self.passes
        return epochs * minibatches


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCriticExperiment(RolloutExperiment):
    """What runs of a policy and a value function depend on, whatever the loss."""

    kl: KLConfig = KLConfig()
    value: ValueSettings = ValueSettings()
    estimate: EstimateSettings = EstimateSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    run: ActorCriticRun = ActorCriticRun()

    @property
    def ptx_coef(self) -> float:
        """Weight of the pretraining rows in the loss."""
        return 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.adapter, FullConfig) or getattr(self.adapter, "decomposes", False):
            raise UserError(
                "adapter full, pissa, olora or loftq moves the base, which the reference and the value function share; "
                "train a LoRA of init 'kaiming' or 'gaussian'"
            )
        if self.pretraining.rows % self.run.micro_batches:
            raise UserError(
                f"run.micro_batches {self.run.micro_batches} does not divide pretraining.rows {self.pretraining.rows}"
            )
        if bool(self.ptx_coef) != bool(self.pretraining.rows):
            raise UserError(
                f"ptx_coef is {self.ptx_coef} and pretraining.rows {self.pretraining.rows}; set both, or neither"
            )


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """The divergence from the policy of the rollout, where ``run.surrogate`` is ``penalty``.

    Attributes:
        coefficient: its weight in the loss, at the beginning.
        target: nats per token at which the weight stays; it is doubled above 1.5 times that and halved below 2 / 3.
            None: it is fixed.
    """

    coefficient: float = 1.0
    target: float | None = 0.01

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.coefficient <= 0 or (self.target is not None and self.target <= 0):
            raise UserError(
                f"penalty.coefficient is {self.coefficient}, penalty.target {self.target}; give more than 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(ActorCriticRun):
    """How long, how wide, and what is written when.

    Attributes:
        epochs: passes over a rollout.
        minibatches: updates of a pass; must divide ``prompts``.
        surrogate: ``clip`` the ratio of new policy to old, or a ``penalty`` on their divergence.
    """

    epochs: int = 4
    minibatches: int = 1
    surrogate: typing.Literal["clip", "penalty"] = "clip"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "epochs", "minibatches")
        if self.prompts % self.minibatches:
            raise UserError(f"run.minibatches {self.minibatches} does not divide run.prompts {self.prompts}")
        part = self.prompts // self.minibatches
        if part % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide the {part} prompts of a minibatch")

    @property
    def passes(self) -> tuple[int, int]:
        """Epochs over a rollout, and minibatches of each."""
        return self.epochs, self.minibatches


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOExperiment(ActorCriticExperiment):
    """Everything that a run of ``experiments.ppo`` depends on."""

    workdir: str = "runs/ppo"
    ppo: PPOConfig = PPOConfig()
    penalty: PenaltySettings = PenaltySettings()
    run: RunSettings = RunSettings()

    @property
    def ptx_coef(self) -> float:
        """Weight of the pretraining rows in the loss."""
        return self.ppo.ptx_coef
