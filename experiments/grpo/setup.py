"""From settings to objects: the model, the task, the optimizer, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import trained
from experiments.algorithm import Setup
from experiments.decoding import make_sampler
from experiments.grpo.settings import GRPOExperiment, TaskSettings
from experiments.keys import keys
from experiments.mesh import beside, check_rows, compiled, compiled_update, laid_out, make_mesh, rows_out
from experiments.settings import scheduled
from lqlm.algorithms.grpo import GRPOBatch, grpo_objective
from lqlm.algorithms.step import TrainState, init_state, make_update
from lqlm.generation.decode import Completions
from lqlm.generation.rollout import bucket_for, check_context, pad_prompts, round_up
from lqlm.io.load import LoadedModel
from lqlm.models.score import completion_logprobs
from lqlm.optim.chains import make_optimizer
from lqlm.rewards.combine import RewardFunction, RewardSpec, bind_all
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item, Task
from lqlm.tasks.gsm8k import Gsm8kConfig, gsm8k_task
from lqlm.tasks.gym import gym_task
from lqlm.types import PyTree

BUCKET_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The task's items as tokens, in buckets of fixed lengths."""

    tokens: dict[str, list[int]]
    buckets: tuple[int, ...]
    pad_id: int

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """Left-padded ``tokens_BP`` and ``mask_BP`` of these items."""
        rows = [self.tokens[item.id] for item in items]
        return pad_prompts(rows, bucket_for(max(map(len, rows)), self.buckets), self.pad_id)


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once per prompt bucket."""

    policy: trained.Policy  # (base, adapters) -> what to sample with
    sample: Callable[..., Completions]
    greedy: Callable[..., Completions]
    score: Callable[..., jax.Array]
    update: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOSetup(Setup):
    """A run of GRPO, ready to begin."""

    settings: GRPOExperiment
    task: Task
    rewards: list[RewardFunction]
    prompts: Prompts
    functions: Functions


def build(settings: GRPOExperiment) -> GRPOSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    task = build_task(settings.task)
    specs = [RewardSpec(name, r.function, r.weight, r.params) for name, r in settings.rewards.items()]
    rewards = bind_all(specs, task)
    optimizer = make_optimizer(scheduled(settings, settings.run.steps * settings.run.updates))
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_prompts=settings.run.prompts // settings.run.micro_batches)
    with beside(mesh):
        model = trained.load(settings.model, settings.adapter)
        prompts = encode(task, model, settings)
        base, adapters = trained.begin(keys(settings.seed)[0], model.base, settings)
        initial, state = trained.kept(adapters, settings.adapter), init_state(adapters, optimizer)
    model = dataclasses.replace(model, base=laid_out(mesh, base, model.config))
    state = laid_out(mesh, state, model.config)
    return GRPOSetup(
        settings=settings,
        model=model,
        task=task,
        rewards=rewards,
        prompts=prompts,
        functions=build_functions(settings, model, optimizer, mesh, state),
        initial=initial,
        mesh=mesh,
        state=state,
    )


def build_task(settings: TaskSettings) -> Task:
    """The task that a section describes."""
    if isinstance(settings, ArithmeticConfig):
        return arithmetic_task(settings)
    return gsm8k_task(settings) if isinstance(settings, Gsm8kConfig) else gym_task(settings)


def encode(task: Task, model: LoadedModel, settings: GRPOExperiment) -> Prompts:
    """Every prompt of the task as tokens, checked against the model's context and the buckets."""
    tokens = {}
    for item in [*task.train, *task.heldout]:
        tokens[item.id] = model.tokenizer.chat(task.messages(item))
        check_context(
            len(tokens[item.id]), settings.sampling.max_new_tokens, model.config.max_positions, f"item {item.id}"
        )
    longest = max(map(len, tokens.values()))
    buckets = settings.run.prompt_buckets or (round_up(longest, BUCKET_MULTIPLE),)
    bucket_for(longest, buckets)
    return Prompts(tokens, buckets, model.tokenizer.pad_id)


def build_functions(
    settings: GRPOExperiment,
    model: LoadedModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    state: TrainState,
) -> Functions:
    """Jit the pure functions with everything static bound."""
    run, scorer = settings.run, make_scorer(settings, model)
    update = make_update(grpo_objective(scorer, settings.grpo), optimizer, micro_batches=run.micro_batches)
    return Functions(
        trained.policy(settings.adapter, run.merge, mesh, model.config),
        make_sampler(model, settings.sampling, run.group, mesh),
        make_sampler(model, dataclasses.replace(settings.sampling, temperature=0.0), 1, mesh),
        compiled(lambda base, adapters, batch: scorer(adapters, base, batch, None)[0], mesh, rows_out(run.prompts)),
        compiled_update(update, mesh, state, model.config),
    )


def make_scorer(settings: GRPOExperiment, model: LoadedModel) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """``(adapters, base, batch, dropout key or None) -> (logp_BGC, entropy_BGC)``; with a key, dropout is on."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: GRPOBatch, key: jax.Array | None) -> Any:
        return completion_logprobs(
            base,
            adapters,
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.completion_mask_BGC,
            model.config,
            temperature=settings.sampling.temperature,
            chunk=run.logprob_chunk,
            with_entropy=True,  # without a consumer, the compiler drops it
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return score
