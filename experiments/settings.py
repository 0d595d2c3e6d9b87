"""Settings that all experiments share: frozen dataclasses, which hold every default."""

import dataclasses
import typing
from typing import Any, ClassVar

from lqlm.adapters.configs import AdapterConfig, FullConfig, Ia3Config, LoraConfig
from lqlm.errors import UserError
from lqlm.models.remat import Remat
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QuantConfig

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

    kind: ClassVar[str] = "pretrained"

    source: str = "smollm2-135m-instruct"
    quantize: bool = True
    quant: QuantConfig = QuantConfig()
    dtype: typing.Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long, and what is written when.

    Attributes:
        steps: steps in all; the learning-rate schedule spans them.
        micro_batches: parts of the batch whose gradients are accumulated.
        remat: what is computed again in the backward pass (``lqlm.models.remat``): ``none``, ``full``, ``dots``,
            ``projections`` or ``offload``.
        logprob_chunk: tokens whose logits are held at once.
        eval_every: steps between held-out evaluations (0: only before and after).
        eval_items: held-out items per evaluation (0: all).
        eval_batch: items evaluated at once.
        patience: evaluations without a new best after which the run ends; it leaves its best adapters then, not its
            last (0: off).
        checkpoint_every: steps between checkpoints.
        keep: checkpoints kept.
        samples: completions written to ``samples.jsonl`` at each step that has any.
        max_skipped: consecutive non-finite updates after which the run stops.
    """

    steps: int = 30
    micro_batches: int = 1
    remat: Remat = "none"
    logprob_chunk: int = 1024
    eval_every: int = 10
    eval_items: int = 0
    eval_batch: int = 32
    patience: int = 0
    checkpoint_every: int = 5
    keep: int = 2
    samples: int = 4
    max_skipped: int = 5

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        self.at_least(1, "steps", "micro_batches", "logprob_chunk", "eval_batch")
        self.at_least(1, "checkpoint_every", "keep", "max_skipped")
        self.at_least(0, "eval_every", "eval_items", "patience", "samples")
        if self.patience and not self.eval_every:
            raise UserError(f"run.patience is {self.patience} and run.eval_every 0; set run.eval_every to 1 or more")

    def at_least(self, least: int, *names: str) -> None:
        """Refuse a smaller value of any of these settings."""
        for name in names:
            if getattr(self, name) < least:
                raise UserError(f"run.{name} is {getattr(self, name)}; give {least} or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run depends on, whatever the algorithm."""

    workdir: str
    seed: int = 0
    model: Any
    adapter: AdapterConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    run: LoopSettings

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.adapter.dtype not in DTYPES:
            raise UserError(f"adapter.dtype is {self.adapter.dtype!r}; choose {', '.join(DTYPES)}")
        if isinstance(self.adapter, FullConfig) and getattr(self.model, "quantize", False):
            raise UserError("adapter.kind 'full' trains the weights themselves; set model.quantize to False")


def mergeable(adapter: AdapterConfig) -> bool:
    """Whether a dense copy of the base can hold such adapters; virtual tokens are no weights, biases need a place."""
    return isinstance(adapter, Ia3Config) or (isinstance(adapter, LoraConfig) and not adapter.lora_bias)


def scheduled(settings: Experiment, updates: int) -> OptimConfig:
    """The optimizer's settings; a ``total_steps`` of 0 becomes the number of updates of the run."""
    return dataclasses.replace(settings.optim, total_steps=settings.optim.total_steps or updates)
