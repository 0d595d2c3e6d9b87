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
from lqlm.rewards.specs import RewardSpec
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.gym import GymConfig
from lqlm.tasks.poker import PokerConfig
from lqlm.tasks.prompts import PromptsConfig
from lqlm.tasks.think import ThinkFormat

ProblemSettings = ArithmeticConfig | Gsm8kConfig | GymConfig | PromptsConfig


@dataclasses.dataclass(frozen=True)
class ThinkSettings:
    """Problems of another task, with the reasoning and the answer in tags of their own, as in R1.

    Attributes:
        task: whose problems; its question must ask for no form of its own.
        form: names of the tags.
        system: system prompt; None: one that asks for the form.
    """

    kind: ClassVar[str] = "think"

    task: ProblemSettings
    form: ThinkFormat = ThinkFormat()
    system: str | None = None


ScenarioSettings = ProblemSettings | ThinkSettings | PokerConfig


@dataclasses.dataclass(frozen=True)
class MixtureSettings:
    """Several scenarios at once: problems whose answers are checked, prompts that a reward model judges.

    A scenario comes as often as its share of the training items says.

    Attributes:
        tasks: scenario -> its task; rewards name the scenarios that they judge.
    """

    kind: ClassVar[str] = "mixture"

    tasks: Mapping[str, ScenarioSettings]


TaskSettings = ScenarioSettings | MixtureSettings


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
        slots: prompts under way at once while sampling: one whose samples have all ended makes room for the next, and
            keys and values are held for so many (0: all prompts at once, in one program, as a mesh needs it).
        prompt_buckets: allowed prompt lengths; empty is one bucket that holds the longest prompt of the task.
        max_prompt: problems whose prompt has more tokens are left out (0: none are).
        reward_timeout: seconds that one reward may take.
        reward_workers: processes in which rewards are computed beside each other (0: none, in this one); those that ask
            for the task or the problem stay here (`lqlm.rewards.pool`).
    """

    prompts: int = 8
    merge: bool = True
    cache: CacheFormat = "model"
    slots: int = 0
    prompt_buckets: tuple[int, ...] = ()
    max_prompt: int = 0
    reward_timeout: float = 5.0
    reward_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "prompts")
        self.at_least(0, "slots", "max_prompt", "reward_workers")
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
    """One component of the reward.

    Attributes:
        function: its dotted path.
        weight: in the sum.
        params: arguments bound by name.
        scenarios: of a mixture of tasks those whose completions it judges; empty: all.
    """

    function: str
    weight: float = 1.0
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scenarios: tuple[str, ...] = ()

    def spec(self, name: str) -> RewardSpec:
        """The component under a name, to be bound to its function."""
        return RewardSpec(name, self.function, self.weight, self.params, self.scenarios)


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
    """A learned component of the reward, called ``reward_model`` beside the functions.

    Attributes:
        path: its PEFT directory, as ``experiments.reward_model`` writes it; it shares the base of the policy.  Empty:
            none.
        weight: of its score in the sum.
        scenarios: of a mixture of tasks those whose completions it judges; empty: all.
    """

    path: str = ""
    weight: float = 1.0
    scenarios: tuple[str, ...] = ()

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
        if self.run.slots and self.mesh:
            raise UserError(f"run.slots is {self.run.slots} and mesh {self.mesh!r}; slots are for one device; give 0")
        if self.reward_model.path and "reward_model" in self.rewards:
            raise UserError("rewards.reward_model has the name of the learned reward; call it something else")
        if self.reward_model.path and (
            isinstance(self.adapter, FullConfig) or getattr(self.adapter, "decomposes", False)
        ):
            raise UserError(
                "reward_model.path is set, but this adapter (full, pissa, olora or loftq) changes the base that it "
                "shares; train a LoRA of init 'kaiming' or 'gaussian', or leave it empty"
            )
