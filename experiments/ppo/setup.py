"""From settings to objects: one base, what is trained over it, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments import trained
from experiments.keys import keys
from experiments.mesh import beside, check_rows, compiled, compiled_update, laid_out, make_mesh
from experiments.ppo.experience import make_experience
from experiments.ppo.pretraining import read_rows
from experiments.ppo.scoring import make_scorer, make_text_scorer
from experiments.ppo.settings import ActorCriticExperiment, PPOExperiment
from experiments.rollouts.prompts import build_task, encode
from experiments.rollouts.setup import RolloutSetup, bind_rewards, build_sampling, reward_pool
from experiments.settings import scheduled
from experiments.sft.data import Feed
from lqlm.adapters.configs import AdapterConfig
from lqlm.adapters.init import init_adapters
from lqlm.algorithms.actor_critic import PPOBatch, Score, TextScore, take_rows
from lqlm.algorithms.ppo import ppo_objective, ppo_penalty_objective
from lqlm.algorithms.step import Objective, TrainState, init_state, make_update
from lqlm.io.load import LoadedModel
from lqlm.io.reward_model import load_reward_model
from lqlm.optim.chains import make_optimizer
from lqlm.sharding import batch_shardings, replicated
from lqlm.trees import commit
from lqlm.types import Key, PyTree

MakeObjective = Callable[[Score, TextScore], Objective]


@dataclasses.dataclass(frozen=True)
class Functions:
    """What learns on the device; each compiles once per prompt bucket."""

    experience: Callable[..., tuple[PPOBatch, dict[str, jax.Array]]]
    update: Callable[..., tuple[TrainState, dict[str, jax.Array]]]  # (state, base, (batch, rows), key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCriticSetup(RolloutSetup):
    """A run of a policy and a value function, ready to begin.

    Attributes:
        functions: of a step.
        value_adapter: what the value function's adapters were made with.
        reference: the adapters of the reference policy; None is the base itself.
        pretraining: rows beside the rollouts, or None.
    """

    settings: ActorCriticExperiment
    functions: Functions
    value_adapter: AdapterConfig
    reference: PyTree = None
    pretraining: Feed | None = None


def build(settings: PPOExperiment) -> ActorCriticSetup:
    """All that a run of PPO needs."""
    objective = ppo_objective if settings.run.surrogate == "clip" else ppo_penalty_objective
    entropy = bool(settings.ppo.entropy_coef)
    return build_with(settings, lambda score, text: objective(score, settings.ppo, text), entropy)


def build_with(settings: ActorCriticExperiment, objective: MakeObjective, entropy: bool) -> ActorCriticSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first.

    Args:
        settings: of the run.
        objective: of what scores a batch, and of what scores pretraining rows.
        entropy: whether the loss has a term of the entropy, which then needs a gradient.
    """
    run, task = settings.run, build_task(settings.task)
    rewards = bind_rewards(settings, task)
    optimizer = make_optimizer(scheduled(settings, run.steps * run.updates))
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_prompts=run.prompts // run.passes[1] // run.micro_batches)
    with beside(mesh):
        model = trained.load(settings.model, settings.adapter)
        (task, prompts), feed = encode(task, model, settings), read_rows(settings, model)
        base, policy, value, value_adapter = begin(keys(settings.seed)[0], model, settings)
        reference = commit(jax.tree.map(jnp.copy, policy)) if settings.start else None
        state = init_state({"policy": policy, "value": value}, optimizer)
    model = dataclasses.replace(model, base=laid_out(mesh, base, model.config))
    state = laid_out(mesh, state, model.config)
    functions = build_functions(settings, model, value_adapter, optimizer, objective, entropy, mesh, state)
    return ActorCriticSetup(
        settings=settings,
        model=model,
        task=task,
        rewards=rewards,
        pool=reward_pool(settings.run, rewards),
        prompts=prompts,
        sampling=build_sampling(settings, model, run.group, mesh),
        functions=functions,
        value_adapter=value_adapter,
        reference=laid_out(mesh, reference, model.config),
        pretraining=feed,
        fingerprint="" if feed is None else feed.fingerprint,
        mesh=mesh,
        state=state,
    )


def begin(
    key: Key, model: LoadedModel, settings: ActorCriticExperiment
) -> tuple[PyTree, PyTree, PyTree, AdapterConfig]:
    """Base, policy's adapters, value function with its head under "score", and the config of its adapters.

    Raises:
        UserError: for a directory of the settings that is missing or does not fit the model.
    """
    policy_key, value_key = jax.random.split(key)
    base, policy = trained.begin(policy_key, model.base, settings)
    policy = trained.started(policy, settings, model.config)
    if settings.value.path:
        return base, policy, *load_reward_model(settings.value.path, model.config)
    _, value = init_adapters(value_key, base, settings.value.adapter)
    # Zeros: until it has learned, the value function says nothing, and advantages are returns.
    head = {"kernel": jnp.zeros(model.config.width), "bias": jnp.zeros(())}
    return base, policy, {**value, "score": head}, settings.value.adapter


def build_functions(
    settings: ActorCriticExperiment,
    model: LoadedModel,
    value_adapter: AdapterConfig,
    optimizer: optax.GradientTransformation,
    objective: MakeObjective,
    entropy: bool,
    mesh: Mesh | None,
    state: TrainState,
) -> Functions:
    """Jit the pure functions with everything static bound."""
    score = make_scorer(settings, model, value_adapter, entropy_gradient=entropy)
    made = objective(score, make_text_scorer(settings, model))
    update = make_update(made, optimizer, micro_batches=settings.run.micro_batches)

    def update_on_rows(state: TrainState, base: PyTree, data: tuple[PPOBatch, jax.Array], key: Any) -> Any:
        return update(state, base, take_rows(*data), key)

    def out(mesh: Mesh) -> Any:
        return batch_shardings(mesh, jnp.empty(settings.run.prompts)), replicated(mesh)

    return Functions(
        compiled(make_experience(settings, score, model), mesh, out),
        compiled_update(update_on_rows, mesh, state, model.config),
    )
