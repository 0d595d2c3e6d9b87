"""Settings of ``python -m experiments.quantize --plan``."""

import dataclasses
from typing import Literal

from experiments.plan.shapes import read_shape
from experiments.plan.steps import Job
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.errors import UserError
from lqlm.models.kv_cache import CacheFormat
from lqlm.models.remat import Remat
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QuantConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """A training step, and the GPU that it shall fit.

    Attributes:
        model: ``7B``, ``13B``, ``33B`` or ``65B`` (Llama shapes), ``OPT-125M`` or ``OPT-1.3B``, a ``.gguf`` file, a
            ``config.json`` or the directory of one, or a hub id; of its weights nothing is read.
        gpu_gib: memory of the GPU.
        reserve_gib: of that, for the driver, libraries and fragmentation.
        step: ``sft``, ``reward_model``, ``ppo`` or ``grpo``.
        batch: rows of a step (SFT), pairs (reward model) or prompts (PPO, GRPO).
        length: tokens of a row; of a prompt and a completion together.
        completion: of these; 0: half of them.
        group: completions of a prompt (PPO, GRPO).
        merge: sample from a dense copy with the adapters merged in (``run.merge`` of PPO and GRPO).
        slots: prompts that are sampled at once (``run.slots``); 0: all.
        cache: keys and values of sampling (``run.cache``): ``model``, ``bfloat16``, ``fp8`` or ``int8``.
        micro_batches: parts of the batch whose gradients are accumulated.
        remat: what is computed again in the backward pass (``lqlm.models.remat``): ``none``, ``full``, ``dots``,
            ``projections`` or ``offload``.
        logprob_chunk: tokens whose logits are held at once.
        dtype: of activations, embedding and head: ``float32`` or ``bfloat16``.
        quantize: hold the linear layers in few bits (see ``quant``); else dense.
        quant: codebook and blocks.
        adapter: what is trained.
        optim: how; ``optimizer``, ``paging`` and ``offload`` matter here.
        suggest: look for what to change where it does not fit.
        json: a file for the figures in bytes; empty for none.
    """

    model: str = "65B"
    gpu_gib: float = 48.0
    reserve_gib: float = 1.0
    step: Literal["sft", "reward_model", "ppo", "grpo"] = "sft"
    batch: int = 1
    length: int = 512
    completion: int = 0
    group: int = 4
    merge: bool = True
    slots: int = 0
    cache: CacheFormat = "model"
    micro_batches: int = 1
    remat: Remat = "full"
    logprob_chunk: int = 256
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    quantize: bool = True
    quant: QuantConfig = QuantConfig()
    adapter: AdapterConfig = LoraConfig(rank=64, dtype="bfloat16")
    optim: OptimConfig = OptimConfig()
    suggest: bool = True
    json: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        for name in ("batch", "group", "micro_batches", "logprob_chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.slots < 0:
            raise UserError(f"slots is {self.slots}; give 1 or more, or 0 for all prompts")
        if self.length < 2:
            raise UserError(f"length is {self.length}; give 2 or more")
        if not 0 <= self.completion < self.length:
            raise UserError(f"completion is {self.completion}; give fewer tokens than length, {self.length}, has")
        if self.reserve_gib < 0 or self.gpu_gib <= self.reserve_gib:
            raise UserError(f"gpu_gib is {self.gpu_gib}, reserve_gib {self.reserve_gib}; the GPU must have more")
        if self.batch % self.micro_batches:
            raise UserError(f"a batch of {self.batch} in {self.micro_batches} micro_batches: choose a divisor")
        if isinstance(self.adapter, FullConfig) and self.quantize:
            raise UserError("adapter.kind 'full' trains the weights themselves; set quantize to False")


def job_of(settings: PlanSettings) -> Job:
    """What the settings ask to compile."""
    return Job(
        read_shape(settings.model),
        quant=settings.quant if settings.quantize else None,
        dtype=settings.dtype,
        adapter=settings.adapter,
        optim=dataclasses.replace(settings.optim, total_steps=settings.optim.total_steps or 1000),
        batch=settings.batch,
        tokens=settings.length,
        completion=settings.completion,
        group=settings.group,
        micro_batches=settings.micro_batches,
        remat=settings.remat,
        chunk=settings.logprob_chunk,
    )
