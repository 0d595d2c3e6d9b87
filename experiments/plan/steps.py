"""Training steps from shapes alone: the compiled program says what it holds."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.plan.shapes import abstract_adapters, abstract_base
from lqlm.adapters.configs import AdapterConfig, LoraConfig
from lqlm.algorithms.actor_critic import Experience, Outputs, PPOBatch
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.ppo import PPOConfig, ppo_objective
from lqlm.algorithms.reward_model import RewardModelConfig, reward_model_objective
from lqlm.algorithms.sft import SFTBatch, sft_objective
from lqlm.algorithms.step import Objective, TrainState, make_update
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.config import ModelConfig
from lqlm.models.heads import completion_scores, completion_values
from lqlm.models.remat import Remat
from lqlm.models.score import completion_logprobs
from lqlm.models.targets import target_scores
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.optim.paged import abstract_state
from lqlm.quant.qtensor import QuantConfig
from lqlm.types import PyTree


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be compiled; the defaults are QLoRA's largest case, at rank 64.

    Attributes:
        cfg: the model's shape.
        quant: of its linear maps; None is dense.
        dtype: of the rest of it, and of the activations.
        adapter: what is trained.
        optim: how.
        batch: rows (SFT), pairs (reward model) or prompts (PPO, GRPO).
        tokens: of a row.
        completion: of these, where there is a prompt; 0: half of them.
        group: completions of a prompt (PPO, GRPO).
        micro_batches: parts of the batch whose gradients are accumulated.
        remat: what is computed again in the backward pass.
        chunk: tokens whose logits are held at once.
    """

    cfg: ModelConfig
    quant: QuantConfig | None = QuantConfig()
    dtype: str = "bfloat16"
    adapter: AdapterConfig = LoraConfig(rank=64, dtype="bfloat16")
    optim: OptimConfig = OptimConfig(learning_rate=2e-4)
    batch: int = 1
    tokens: int = 512
    completion: int = 0
    group: int = 1
    micro_batches: int = 1
    remat: Remat = "full"
    chunk: int = 256


class Program(NamedTuple):
    """A jitted function, abstract arguments, and which of these is what."""

    function: Any
    arguments: tuple[PyTree, ...]
    base: PyTree
    adapters: PyTree
    moments: PyTree


def integers(*shape: int) -> Any:
    """An abstract int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def booleans(*shape: int) -> Any:
    """An abstract mask."""
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def floats(*shape: int) -> Any:
    """An abstract float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def sft_score(job: Job) -> Callable:
    """The scores of supervised fine-tuning, as ``experiments.sft`` computes them."""

    def score(adapters: PyTree, base: PyTree, batch: SFTBatch, key: Any) -> Any:
        rows = batch.tokens_BT, batch.segments_BT, batch.targets_BT
        return target_scores(base, adapters, *rows, job.cfg, chunk=job.chunk, dropout_key=key, remat=job.remat)

    return score


def sft(job: Job) -> Program:
    """One update of supervised fine-tuning, ``(state, base, batch, key or None)``."""
    rows = (job.batch, job.tokens)
    return _program(job, sft_objective(sft_score(job)), SFTBatch(integers(*rows), integers(*rows), booleans(*rows)))


def grpo(job: Job) -> Program:
    """One update of GRPO, ``(state, base, batch, key or None)``."""

    def score(adapters: PyTree, base: PyTree, batch: GRPOBatch, key: Any) -> Any:
        arrays = batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.completion_mask_BGC
        return completion_logprobs(
            base, adapters, *arrays, job.cfg, chunk=job.chunk, with_entropy=True, dropout_key=key, remat=job.remat
        )

    prompt, rows = _rows(job, job.group)
    batch = GRPOBatch(
        integers(*prompt),
        booleans(*prompt),
        integers(*rows),
        booleans(*rows),
        floats(*rows[:2]),
        floats(*rows),
        floats(*rows),
    )
    return _program(job, grpo_objective(score, GRPOConfig()), batch)


def _rows(job: Job, group: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Shapes of prompts and of completions."""
    completion = job.completion or job.tokens - job.tokens // 2
    return (job.batch, job.tokens - completion), (job.batch, group, completion)


def reward_model(job: Job) -> Program:
    """One update of a reward model on pairs, ``(state, base, batch, key or None)``; its head is trained with it."""

    def score(trained: PyTree, base: PyTree, batch: PairBatch, key: Any) -> Any:
        arrays = batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.completion_mask_BGC
        return completion_scores(base, trained, *arrays, job.cfg, dropout_key=key, remat=job.remat)

    prompt, rows = _rows(job, 2)
    batch = PairBatch(integers(*prompt), booleans(*prompt), integers(*rows), booleans(*rows), floats(job.batch))
    return _program(job, reward_model_objective(score, RewardModelConfig()), batch, lambda x: _with_head(x, job))


def ppo(job: Job) -> Program:
    """One update of PPO, ``(state, base, batch, key or None)``: a policy, and a value function with its own adapter."""

    def score(trained: PyTree, base: PyTree, batch: PPOBatch, key: Any) -> Outputs:
        arrays = batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.experience.mask
        more: dict[str, Any] = {"dropout_key": key, "remat": job.remat}
        logp, entropy = completion_logprobs(
            base, trained["policy"], *arrays, job.cfg, chunk=job.chunk, with_entropy=True, **more
        )
        assert entropy is not None
        return Outputs(logp, entropy, completion_values(base, trained["value"], *arrays, job.cfg, **more))

    prompt, rows = _rows(job, job.group)
    experience = Experience(booleans(*rows), booleans(*rows), *(floats(*rows) for _ in range(4)))
    batch = PPOBatch(integers(*prompt), booleans(*prompt), integers(*rows), experience)
    both = lambda adapters: {"policy": adapters, "value": _with_head(adapters, job)}  # noqa: E731
    return _program(job, ppo_objective(score, PPOConfig()), batch, both)


def _with_head(adapters: PyTree, job: Job) -> PyTree:
    return {**adapters, "score": {"kernel": floats(job.cfg.width), "bias": floats()}}


def _program(
    job: Job, objective: Objective, batch: PyTree, trained: Callable[[PyTree], PyTree] = lambda adapters: adapters
) -> Program:
    base, adapters = abstract_adapters(abstract_base(job.cfg, job.quant, job.dtype), job.adapter)
    adapters = trained(adapters)
    optimizer = make_optimizer(job.optim)
    moments = abstract_state(optimizer, adapters, jax.devices()[0])
    state = TrainState(adapters, moments, integers(), integers(), integers())
    update = make_update(objective, optimizer, micro_batches=job.micro_batches)
    key = jax.eval_shape(lambda: jax.random.key(0)) if getattr(job.adapter, "dropout", 0.0) else None
    return Program(
        jax.jit(update, donate_argnums=0, keep_unused=True), (state, base, batch, key), base, adapters, moments
    )


STEPS = {"sft": sft, "reward_model": reward_model, "ppo": ppo, "grpo": grpo}


def decode(job: Job, new_tokens: int) -> Program:
    """Sampling from the base with its adapters, ``(base, adapters, prompts, mask, key)``."""
    sampling = SamplingConfig(max_new_tokens=new_tokens)
    run = functools.partial(generate, cfg=job.cfg, sampling=sampling, group=job.group, eos_ids=(2,), pad_id=0)
    base, adapters = abstract_adapters(abstract_base(job.cfg, job.quant, job.dtype), job.adapter)
    row = (job.batch, job.tokens)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(jax.jit(run), (base, adapters, integers(*row), booleans(*row), key), base, adapters, ())
