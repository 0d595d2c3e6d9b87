"""The settings of a GRPO run: frozen dataclasses, which hold every default."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from lqlm.adapters.lora import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QuantConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.gym import GymConfig

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is held.

    Attributes:
        source: ``smollm2-135m-instruct``, a ``.gguf`` file, a Hugging Face directory, or a hub id.
        quantize: hold the linear layers in 4 bits (see ``quant``); else dense.
        quant: codebook and blocks.
        dtype: of activations, embedding and head: ``float32`` (CPU) or ``bfloat16`` (GPU).
    """

    source: str = "smollm2-135m-instruct"
    quantize: bool = True
    quant: QuantConfig = QuantConfig()
    dtype: typing.Literal["float32", "bfloat16"] = "float32"


_POSITIVE = (
    "steps",
    "prompts",
    "updates",
    "micro_batches",
    "logprob_chunk",
    "eval_batch",
    "checkpoint_every",
    "keep",
    "max_skipped",
)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How long, how wide, and what is written when.

    Attributes:
        steps: rollouts in all; the learning-rate schedule spans them.
        prompts: B, prompts of a step.
        group: G, samples of each prompt.
        updates: optimizer updates per rollout.
        micro_batches: parts of the batch whose gradients are accumulated; divides ``prompts``.
        scale: ``group`` (z-score, DeepSeekMath) or ``none`` (centred only, Dr. GRPO).
        merge: sample from a dense copy with the adapters merged in, made anew for each rollout.
        remat: recompute activations in the backward pass.
        logprob_chunk: tokens whose logits are held at once.
        prompt_buckets: allowed prompt lengths; empty is one bucket that holds the longest prompt of the task.
        eval_every: steps between greedy held-out evaluations (0: only before and after).
        eval_items: held-out problems per evaluation (0: all).
        eval_batch: prompts decoded at once in an evaluation.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints kept.
        samples: completions written to ``samples.jsonl`` at each step.
        max_skipped: consecutive non-finite updates after which the run stops.
        reward_timeout: seconds that one reward may take.
    """

    steps: int = 30
    prompts: int = 8
    group: int = 8
    updates: int = 1
    micro_batches: int = 1
    scale: typing.Literal["group", "none"] = "group"
    merge: bool = True
    remat: bool = False
    logprob_chunk: int = 1024
    prompt_buckets: tuple[int, ...] = ()
    eval_every: int = 10
    eval_items: int = 0
    eval_batch: int = 32
    checkpoint_every: int = 5
    keep: int = 2
    samples: int = 4
    max_skipped: int = 5
    reward_timeout: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.group < 2:
            raise UserError(f"run.group is {self.group}; a group needs at least 2 samples to be compared")
        for least, names in ((1, _POSITIVE), (0, ("eval_every", "eval_items", "samples"))):
            for name in names:
                if getattr(self, name) < least:
                    raise UserError(f"run.{name} is {getattr(self, name)}; give {least} or more")
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


TaskSettings = ArithmeticConfig | Gsm8kConfig | GymConfig


@dataclasses.dataclass(frozen=True)
class GRPOExperiment:
    """Everything that a run of ``experiments.grpo`` depends on."""

    task: TaskSettings
    rewards: Mapping[str, RewardSettings]
    workdir: str = "runs/grpo"
    seed: int = 0
    model: ModelSettings = ModelSettings()
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    grpo: GRPOConfig = GRPOConfig()
    optim: OptimConfig = OptimConfig()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.lora.dtype not in DTYPES:
            raise UserError(f"lora.dtype is {self.lora.dtype!r}; choose {', '.join(DTYPES)}")


TASKS: dict[str, type] = {"arithmetic": ArithmeticConfig, "gsm8k": Gsm8kConfig, "gym": GymConfig}
