"""The settings of a GRPO run: frozen dataclasses, which hold every default."""

import dataclasses
import math
from typing import ClassVar

from experiments.configdict import kind_of
from experiments.grpo.advantages import Advantage, GroupAdvantage, Process
from experiments.rollouts.settings import RolloutExperiment, RolloutSettings
from lqlm.adapters.configs import FullConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(RolloutSettings):
    """How long, how wide, and what is written when.

    Attributes:
        group: G, samples of each prompt.
        updates: optimizer updates per rollout.
        mask_truncated_completions: the overlong filter: samples cut off at the token limit count in their group, but
            are not learned from.
        reference_every: steps after which the policy becomes the reference (iterative GRPO); 0: never, it stays the
            base, or the adapter that ``start`` names.
    """

    group: int = 8
    updates: int = 1
    mask_truncated_completions: bool = False
    reference_every: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if self.group < 2:
            raise UserError(f"run.group is {self.group}; a group needs at least 2 samples to be compared")
        self.at_least(1, "updates")
        self.at_least(0, "reference_every")


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Each prompt is sampled once, whatever its rewards are."""


@dataclasses.dataclass(frozen=True)
class Growing:
    """Prompts whose rewards are all equal are sampled again.

    A further rollout has as many prompts as the first: those prompts in turn.  Of a grown group as many samples are
    learned from as of the others (`lqlm.algorithms.resampling.kept_samples`).

    Attributes:
        rounds: further rollouts of a step, at most.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _check_rounds(self.rounds)


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """Groups whose rewards are all equal are replaced by fresh prompts (DAPO's dynamic sampling).

    Where the rounds do not suffice, the batch is filled up with such groups.

    Attributes:
        rounds: further rollouts of a step, at most.
        component: of the section ``rewards``, whose values are compared, as DAPO compares accuracy and not its penalty
            of length; empty: the sum of all.
    """

    rounds: int = 2
    component: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _check_rounds(self.rounds)


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise UserError(f"resampling.rounds is {rounds}; give 1 or more, or take kind 'fixed'")


@dataclasses.dataclass(frozen=True)
class OffPolicySettings:
    """The reference answer as one more member of each group, learned from as LUFFY does (arXiv:2504.14945).

    Attributes:
        gamma: of the shaping ``p / (p + gamma)``.
        reward: what a reference answer earns; its advantage is that of its group with it.
    """

    kind: ClassVar[str] = "luffy"

    gamma: float = 0.1
    reward: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.gamma <= 0 or not math.isfinite(self.reward):
            raise UserError(
                f"demonstrations.gamma is {self.gamma}, demonstrations.reward {self.reward}; give more than 0, and a "
                "finite number"
            )

    @property
    def used(self) -> bool:
        """Whether there are demonstrations."""
        return True


@dataclasses.dataclass(frozen=True)
class DemonstrationSettings:
    """A supervised mix-in: the likelihood of the reference answer, for groups without a right sample.

    Attributes:
        weight: of the mean negative log-likelihood, beside the loss of GRPO; 0: none.
        right: a sample with this reward or more is right.
    """

    kind: ClassVar[str] = "likelihood"

    weight: float = 0.0
    right: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.weight < 0:
            raise UserError(f"demonstrations.weight is {self.weight}; give 0 or more")

    @property
    def used(self) -> bool:
        """Whether there are demonstrations."""
        return self.weight > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOExperiment(RolloutExperiment):
    """Everything that a run of ``experiments.grpo`` depends on."""

    workdir: str = "runs/grpo"
    grpo: GRPOConfig = GRPOConfig()
    advantage: Advantage = GroupAdvantage()
    resampling: Fixed | Growing | Dynamic = Fixed()
    demonstrations: DemonstrationSettings | OffPolicySettings = DemonstrationSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.adapter, FullConfig) and self.grpo.beta:
            raise UserError(
                f"grpo.beta is {self.grpo.beta}, but its reference, the base without adapters, is moved by full "
                "training; set grpo.beta to 0, or another adapter"
            )
        if isinstance(self.resampling, Growing) and not self.advantage.grows:
            raise UserError(
                f"resampling.kind 'growing' makes groups of unequal size, which advantage.kind "
                f"{kind_of(type(self.advantage))!r} is not defined for; take 'group' or 'none'"
            )
        if isinstance(self.resampling, Dynamic):
            self._check_component(self.resampling.component)
        if isinstance(self.advantage, Process):
            self._check_process()
        if isinstance(self.demonstrations, OffPolicySettings):
            self._check_off_policy()
        if self.run.reference_every and not self.grpo.beta:
            raise UserError("run.reference_every is set, but with grpo.beta 0 there is no reference; set grpo.beta")

    def _check_component(self, name: str) -> None:
        """Refuse a name that no component of the reward has."""
        known = [*self.rewards, *(["reward_model"] if self.reward_model.path else [])]
        if name and name not in known:
            raise UserError(
                f"resampling.component {name!r} is none of the rewards ({', '.join(known)}); name one, or none"
            )

    def _check_off_policy(self) -> None:
        """Refuse what does not know of one more member of each group."""
        if not self.advantage.grows or isinstance(self.resampling, Growing):
            raise UserError(
                f"demonstrations.kind 'luffy' compares G samples and a demonstration, which advantage.kind "
                f"{kind_of(type(self.advantage))!r} with resampling.kind {kind_of(type(self.resampling))!r} is not "
                "defined for; take advantage.kind 'group' or 'none', and resampling.kind 'fixed' or 'dynamic'"
            )

    def _check_process(self) -> None:
        """Refuse what compares, or changes, rewards of whole completions, beside rewards of steps."""
        kind = kind_of(type(self.resampling))
        if not isinstance(self.resampling, Fixed):
            raise UserError(
                f"resampling.kind {kind!r} looks at rewards of whole completions, advantage.kind 'process' at those of "
                "their steps; take resampling.kind 'fixed'"
            )
        if self.grpo.beta and self.grpo.kl_place == "reward":
            raise UserError(
                "grpo.kl_place 'reward' has no place beside advantage.kind 'process', whose rewards are those of "
                "steps; take 'loss'"
            )

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference has adapters of its own, which the state then holds."""
        return bool(self.grpo.beta and (self.run.reference_every or self.start))
