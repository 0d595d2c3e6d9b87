"""From settings to objects: the model, the task, the optimizer, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from experiments import trained
from experiments.grpo.advantages import Process
from experiments.grpo.demonstrations import demonstrations
from experiments.grpo.iterative import begin
from experiments.grpo.settings import GRPOExperiment, OffPolicySettings
from experiments.grpo.supervision import StepReward, step_reward
from experiments.keys import keys
from experiments.mesh import beside, check_rows, compiled, compiled_update, laid_out, make_mesh, rows_out
from experiments.rollouts.prompts import build_task, encode
from experiments.rollouts.setup import RolloutSetup, bind_rewards, build_sampling, reward_pool
from experiments.settings import scheduled
from lqlm.algorithms.grpo import GRPOBatch, grpo_objective
from lqlm.algorithms.step import TrainState, init_state, make_update
from lqlm.io.load import LoadedModel
from lqlm.models.score import completion_logprobs
from lqlm.optim.chains import make_optimizer
from lqlm.types import PyTree


@dataclasses.dataclass(frozen=True)
class Functions:
    """What learns on the device; each compiles once per prompt bucket."""

    score: Callable[..., jax.Array]
    scores: Callable[..., tuple[jax.Array, jax.Array]]  # log-probabilities, and entropies
    update: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOSetup(RolloutSetup):
    """A run of GRPO, ready to begin."""

    settings: GRPOExperiment
    functions: Functions
    demonstrations: Mapping[str, list[int]]  # by the item's id; empty where there is no mix-in
    steps: StepReward | None = None  # of process supervision


def build(settings: GRPOExperiment) -> GRPOSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    task = build_task(settings.task)
    rewards, kind = bind_rewards(settings, task), settings.advantage
    steps = step_reward(kind, task) if isinstance(kind, Process) else None
    optimizer = make_optimizer(scheduled(settings, settings.run.steps * settings.run.updates))
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_prompts=settings.run.prompts // settings.run.micro_batches)
    with beside(mesh):
        model = trained.load(settings.model, settings.adapter)
        task, prompts = encode(task, model, settings)
        base, adapters = trained.begin(keys(settings.seed)[0], model.base, settings)
        adapters = trained.started(adapters, settings, model.config)
        initial, state = trained.kept(adapters, settings.adapter), init_state(adapters, optimizer)
    model = dataclasses.replace(model, base=laid_out(mesh, base, model.config))
    state = laid_out(mesh, state, model.config)
    functions = build_functions(settings, model, optimizer, mesh, state)
    return GRPOSetup(
        settings=settings,
        model=model,
        task=task,
        rewards=rewards,
        pool=reward_pool(settings.run, rewards),
        prompts=prompts,
        sampling=build_sampling(settings, model, settings.run.group, mesh),
        functions=functions,
        demonstrations=demonstrations(settings, task, model, prompts),
        steps=steps,
        initial=initial,
        mesh=mesh,
        state=begin(state) if settings.keeps_reference else state,
    )


def build_functions(
    settings: GRPOExperiment,
    model: LoadedModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    state: TrainState,
) -> Functions:
    """Jit the pure functions with everything static bound."""
    run, scorer = settings.run, make_scorer(settings, model)
    shaping = settings.demonstrations.gamma if isinstance(settings.demonstrations, OffPolicySettings) else None
    objective = grpo_objective(scorer, settings.grpo, micro_batches=run.micro_batches, shaping=shaping)
    update = make_update(objective, optimizer, micro_batches=run.micro_batches)
    return Functions(
        compiled(lambda base, adapters, batch: scorer(adapters, base, batch, None)[0], mesh, rows_out(run.prompts)),
        compiled(lambda base, adapters, batch: scorer(adapters, base, batch, None), mesh, rows_out(run.prompts)),
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
            entropy_gradient=settings.grpo.entropy_coef != 0,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return score
