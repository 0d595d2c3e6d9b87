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
        products: the type in which linear maps and head multiply, with sums in float32; empty: as ``dtype``.
            ``bfloat16`` beside ``float32`` is faster on processors that have instructions for it, such as AMD's since
            Zen 4 and Intel's since Sapphire Rapids, and slower on others.
    """

    kind: ClassVar[str] = "pretrained"

    source: str = "smollm2-135m-instruct"
    quantize: bool = True
    quant: QuantConfig = QuantConfig()
    dtype: typing.Literal["float32", "bfloat16"] = "float32"
    products: typing.Literal["", "bfloat16"] = ""


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


@dataclasses.dataclass(frozen=True)
class HostSettings:
    """Several processes, usually one on each host; all have the same settings but ``index``, and see one workdir.

    Attributes:
        coordinator: ``host:port`` of process 0, ``auto`` (jax asks Slurm, Open MPI, Kubernetes or the cloud), or empty:
            this process alone.
        count: processes in all.
        index: of this process.
        timeout: seconds to find each other.
        heartbeat: seconds of silence after which a process is taken for lost, and the others end.
    """

    coordinator: str = ""
    count: int = 1
    index: int = 0
    timeout: int = 120
    heartbeat: int = 60

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.coordinator not in ("", "auto") and not self.coordinator.rpartition(":")[2].isdigit():
            raise UserError(f"hosts.coordinator is {self.coordinator!r}; give host:port, or auto")
        if not 0 <= self.index < self.count:
            raise UserError(f"hosts.index is {self.index}, hosts.count {self.count}; number processes 0 to count - 1")
        if self.timeout < 1 or self.heartbeat < 1:
            raise UserError(f"hosts.timeout is {self.timeout}, hosts.heartbeat {self.heartbeat}; give 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run depends on, whatever the algorithm.

    Attributes:
        workdir: folder of all that the run writes.
        seed: of all that is drawn.
        mesh: devices along each axis, as ``data=2,fsdp=2,tensor=2`` (-1: all that are left); empty: one device.
        hosts: of several processes.
        model: which, and how it is held.
        adapter: what is trained.
        start: a PEFT directory whose adapter training goes on from; it must be of the kind, rank and targets of
            ``adapter``.  Empty: a new one.
        optim: how it is trained.
        run: how long, and what is written when.
    """

    workdir: str
    seed: int = 0
    mesh: str = ""
    hosts: HostSettings = HostSettings()
    model: Any
    adapter: AdapterConfig = LoraConfig()
    start: str = ""
    optim: OptimConfig = OptimConfig()
    run: LoopSettings

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.adapter.dtype not in DTYPES:
            raise UserError(f"adapter.dtype is {self.adapter.dtype!r}; choose {', '.join(DTYPES)}")
        if self.start and (isinstance(self.adapter, FullConfig) or getattr(self.adapter, "decomposes", False)):
            raise UserError(
                f"start is {self.start}, but what this adapter (full, pissa, olora or loftq) begins with is not in a "
                "PEFT directory; leave start empty, or train a LoRA of init 'kaiming' or 'gaussian'"
            )
        for wrong in ("quantize", "products") if isinstance(self.adapter, FullConfig) else ():
            if getattr(self.model, wrong, False):
                raise UserError(f"adapter.kind 'full' trains the weights themselves; leave model.{wrong} off")


def mergeable(adapter: AdapterConfig) -> bool:
    """Whether a dense copy of the base can hold such adapters; virtual tokens are no weights, biases need a place."""
    return isinstance(adapter, Ia3Config) or (isinstance(adapter, LoraConfig) and not adapter.lora_bias)


def scheduled(settings: Experiment, updates: int) -> OptimConfig:
    """The optimizer's settings; a ``total_steps`` of 0 becomes the number of updates of the run."""
    return dataclasses.replace(settings.optim, total_steps=settings.optim.total_steps or updates)
