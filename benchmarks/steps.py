"""Abstract models (shapes without arrays) and the compiled functions that the memory benchmark measures."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lqlm.adapters.lora import LoraConfig, init_lora
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.algorithms.step import GRPOBatch, TrainState, make_update
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.logprobs import chunked_token_logprobs
from lqlm.masked import masked_mean
from lqlm.models.config import ModelConfig
from lqlm.models.convert import LINEARS, layer_tensors
from lqlm.models.score import completion_logprobs
from lqlm.models.transformer import forward, logits
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.optim.paged import abstract_state
from lqlm.quant.qtensor import QuantConfig, quantize
from lqlm.types import Array, PyTree

CHUNK = 256  # tokens whose logits are held at once


def llama(layers: int, width: int, ffn: int, heads: int, vocab_size: int = 32000) -> ModelConfig:
    """A Llama of the first generation: no grouped queries, a head of its own."""
    return ModelConfig(
        family="llama",
        vocab_size=vocab_size,
        width=width,
        ffn=ffn,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        rope_theta=10000.0,
        rope_scaling=None,
        norm_eps=1e-5,
        tied=False,
        qkv_bias=False,
        qk_norm=False,
        max_positions=2048,
        sliding_window=None,
    )


SHAPES = {
    "7B": llama(32, 4096, 11008, 32),
    "13B": llama(40, 5120, 13824, 40),
    "33B": llama(60, 6656, 17920, 52),
    "65B": llama(80, 8192, 22016, 64),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be compiled."""

    cfg: ModelConfig
    rank: int = 64
    adapter_dtype: str = "bfloat16"
    tokens: int = 512  # of the row; the prompt takes half of it where there is one
    group: int = 1  # completions of the prompt


def abstract_base(cfg: ModelConfig, quant: QuantConfig | None = QuantConfig()) -> PyTree:  # noqa: B008
    """Shapes of a base in bfloat16 whose linear maps are quantized, unless ``quant`` is None."""

    def build() -> PyTree:
        def tensor(name: str, shape: tuple[int, ...]) -> PyTree:
            w = jnp.zeros((cfg.layers, *reversed(shape)), jnp.bfloat16)
            return quantize(w, quant) if quant is not None and name in LINEARS else w

        layers = {name: tensor(name, shape) for name, (_, shape) in layer_tensors(cfg).items()}
        embed = jnp.zeros((cfg.vocab_size, cfg.width), jnp.bfloat16)
        return {"embed": embed, "head": embed.T, "norm": embed[0], "layers": layers}

    return jax.eval_shape(build)


def abstract_adapters(base: PyTree, job: Job) -> PyTree:
    """Shapes of the adapters of all linear maps."""
    config = LoraConfig(rank=job.rank, dtype=job.adapter_dtype)
    return jax.eval_shape(lambda key: init_lora(key, base, config), jax.random.key(0))


def integers(*shape: int) -> Any:
    """An abstract int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def booleans(*shape: int) -> Any:
    """An abstract mask."""
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def floats(*shape: int) -> Any:
    """An abstract float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def sft_loss(adapters: PyTree, base: PyTree, tokens: Array, mask: Array, cfg: ModelConfig) -> Array:
    """Mean negative log-likelihood of the next token, over tokens inside the mask."""
    hidden = forward(base, adapters, tokens, mask, cfg, remat=True)[:, :-1]
    logp, _ = chunked_token_logprobs(
        hidden.reshape(-1, cfg.width), lambda h: logits(base, h), tokens[:, 1:].reshape(-1), chunk=CHUNK
    )
    return -masked_mean(logp, mask[:, 1:].reshape(-1))


def sft(job: Job, optimizer: Any) -> tuple[Callable, tuple[PyTree, ...]]:
    """One step of supervised fine-tuning, and abstract ``(adapters, opt_state, base, tokens, mask)``."""

    def step(adapters: PyTree, opt_state: PyTree, base: PyTree, tokens: Array, mask: Array) -> tuple[Any, ...]:
        loss, grads = jax.value_and_grad(sft_loss)(adapters, base, tokens, mask, job.cfg)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, opt_state = optimizer.update(grads, opt_state, adapters)
            return optax.apply_updates(adapters, updates), opt_state, loss

    base = abstract_base(job.cfg)
    adapters = abstract_adapters(base, job)
    state = abstract_state(optimizer, adapters, jax.devices()[0])
    row = (1, job.tokens)
    return jax.jit(step, donate_argnums=(0, 1)), (adapters, state, base, integers(*row), booleans(*row))


def grpo(job: Job, optimizer: Any) -> tuple[Callable, tuple[PyTree, ...]]:
    """One update of GRPO on one prompt, and abstract ``(state, base, batch, key)``; half of the tokens prompt."""

    def score(adapters: PyTree, base: PyTree, batch: GRPOBatch, key: Any) -> Any:
        arrays = batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.completion_mask_BGC
        return completion_logprobs(base, adapters, *arrays, job.cfg, chunk=CHUNK, with_entropy=True, remat=True)

    base = abstract_base(job.cfg)
    adapters = abstract_adapters(base, job)
    prompt, rows = (1, job.tokens // 2), (1, job.group, job.tokens - job.tokens // 2)
    batch = GRPOBatch(
        integers(*prompt),
        booleans(*prompt),
        integers(*rows),
        booleans(*rows),
        floats(*rows[:2]),
        floats(*rows),
        floats(*rows),
    )
    opt_state = abstract_state(optimizer, adapters, jax.devices()[0])
    state = TrainState(adapters, opt_state, integers(), integers(), integers())
    return jax.jit(make_update(score, optimizer, GRPOConfig()), donate_argnums=0), (state, base, batch, None)


STEPS = {"sft": sft, "grpo": grpo}


def train_optimizer() -> Any:
    """Clip at 1, paged AdamW."""
    return make_optimizer(OptimConfig(learning_rate=2e-4, clip_norm=1.0, paged=True))


def decode(job: Job, new_tokens: int, quant: QuantConfig | None = QuantConfig()) -> tuple[Callable, tuple[PyTree, ...]]:  # noqa: B008
    """Sampling from the 4-bit base with its adapters, and abstract ``(base, adapters, prompts, mask, key)``."""
    sampling = SamplingConfig(max_new_tokens=new_tokens)
    run = functools.partial(generate, cfg=job.cfg, sampling=sampling, group=job.group, eos_ids=(2,), pad_id=0)
    base = abstract_base(job.cfg, quant)
    row = (1, job.tokens)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(run), (base, abstract_adapters(base, job), integers(*row), booleans(*row), key)
