"""The settings of whatever learns from its own samples: task, rewards, sampling; they hold every default."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from experiments.settings import Experiment, LoopSettings, ModelSettings
from lqlm.adapters.configs import FullConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.kv_cache import CacheFormat
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.gym import GymConfig
from lqlm.tasks.poker import PokerConfig
from lqlm.tasks.think import ThinkFormat


@dataclasses.dataclass(frozen=True)
class ThinkSettings:
    """Problems of another task, with the reasoning and the answer in tags of their own, as in R1.

    Attributes:
        task: whose problems; its question must ask for no form of its own.
        form: names of the tags.
        system: system prompt; None: one that asks for the form.
    """

    kind: ClassVar[str] = "think"

    task: ArithmeticConfig | Gsm8kConfig | GymConfig
    form: ThinkFormat = ThinkFormat()
    system: str | None = None


TaskSettings = ArithmeticConfig | Gsm8kConfig | GymConfig | ThinkSettings | PokerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutSettings(LoopSettings):
    """How long, how wide, and what is written when.

    Attributes:
        steps: rollouts in all; the learning-rate schedule spans them.
        prompts: B, prompts of a step; ``micro_batches`` divides it.
        merge: sample from a dense copy with the adapters merged in, made anew for each rollout.
        cache: how keys and values are stored while sampling: as the ``model`` computes them, or in ``bfloat16``,
            ``fp8`` or ``int8``, for less memory and samples of a policy that is a little another one
            (`lqlm.models.kv_cache`).
        prompt_buckets: allowed prompt lengths; empty is one bucket that holds the longest prompt of the task.
        reward_timeout: seconds that one reward may take.
    """

    prompts: int = 8
    merge: bool = True
    cache: CacheFormat = "model"
    prompt_buckets: tuple[int, ...] = ()
    reward_timeout: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "prompts")
        if self.cache not in get_args(CacheFormat):
            raise UserError(f"run.cache is {self.cache!r}; use one of {', '.join(get_args(CacheFormat))}")
        if self.reward_timeout <= 0 or any(size < 1 for size in self.prompt_buckets):
            raise UserError(
                f"run.reward_timeout is {self.reward_timeout}, run.prompt_buckets {self.prompt_buckets}; "
                "they must be positive"
            )
        if self.prompts % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide run.prompts {self.prompts}")


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """One component of the reward: a function's dotted path, its weight, and arguments bound by name."""

    function: str
    weight: float = 1.0
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
    """A learned component of the reward, called ``reward_model`` beside the functions.

    Attributes:
        path: its PEFT directory, as ``experiments.reward_model`` writes it; it shares the base of the policy.  Empty:
            none.
        weight: of its score in the sum.
    """

    path: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not math.isfinite(self.weight):
            raise UserError(f"reward_model.weight is {self.weight}; give a finite number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutExperiment(Experiment):
    """Everything that a run on its own samples depends on, whatever the algorithm."""

    model: ModelSettings = ModelSettings()
    task: TaskSettings
    rewards: Mapping[str, RewardSettings]
    reward_model: RewardModelSettings = RewardModelSettings()
    sampling: SamplingConfig = SamplingConfig()
    run: RolloutSettings = RolloutSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if self.sampling.stop:
            raise UserError(
                f"sampling.stop is {self.sampling.stop}: rollouts compare no texts; leave it empty, and reward no text "
                "behind an answer"
            )
        if self.reward_model.path and "reward_model" in self.rewards:
            raise UserError("rewards.reward_model has the name of the learned reward; call it something else")
        if self.reward_model.path and (
            isinstance(self.adapter, FullConfig) or getattr(self.adapter, "decomposes", False)
        ):
            raise UserError(
                "reward_model.path is set, but this adapter (full, pissa, olora or loftq) changes the base that it "
                "shares; train a LoRA of init 'kaiming' or 'gaussian', or leave it empty"
            )
