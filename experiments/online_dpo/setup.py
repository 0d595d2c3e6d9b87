"""From settings to objects: the task, the model, and the compiled functions of a step."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from experiments import trained
from experiments.dpo.setup import make_reference, make_scorer
from experiments.keys import keys
from experiments.mesh import beside, check_rows, compiled, compiled_update, laid_out, make_mesh, rows_out
from experiments.online_dpo.settings import OnlineDPOExperiment
from experiments.rollouts.prompts import build_task, encode
from experiments.rollouts.setup import RolloutSetup, bind_rewards, build_sampling, reward_pool
from experiments.settings import scheduled
from lqlm.algorithms.dpo import dpo_objective
from lqlm.algorithms.pairs import PairBatch, pairs_of_groups
from lqlm.algorithms.step import Metrics, TrainState, init_state, make_update
from lqlm.optim.chains import make_optimizer
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Functions:
    """What learns on the device; each compiles once per prompt bucket."""

    paired: Callable[[PairBatch, Array], PairBatch]  # (groups, rewards_BG) -> pairs
    reference: Callable[[PyTree, PairBatch], Array]  # (base, pairs) -> ref_logp_BGC
    update: Callable[..., tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineDPOSetup(RolloutSetup):
    """A run of online DPO, ready to begin."""

    settings: OnlineDPOExperiment
    functions: Functions


def build(settings: OnlineDPOExperiment) -> OnlineDPOSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    task = build_task(settings.task)
    rewards = bind_rewards(settings, task)
    optimizer = make_optimizer(scheduled(settings, settings.run.steps))
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_prompts=settings.run.prompts // settings.run.micro_batches)
    with beside(mesh):
        model = trained.load(settings.model, settings.adapter)
        task, prompts = encode(task, model, settings)
        base, adapters = trained.begin(keys(settings.seed)[0], model.base, settings)
        state = init_state(trained.started(adapters, settings, model.config), optimizer)
    model = dataclasses.replace(model, base=laid_out(mesh, base, model.config))
    state = laid_out(mesh, state, model.config)
    scorer = make_scorer(settings, model)
    update = make_update(dpo_objective(scorer, settings.dpo), optimizer, micro_batches=settings.run.micro_batches)
    return OnlineDPOSetup(
        settings=settings,
        model=model,
        task=task,
        rewards=rewards,
        pool=reward_pool(settings.run, rewards),
        prompts=prompts,
        sampling=build_sampling(settings, model, settings.run.group, mesh),
        functions=Functions(
            jax.jit(functools.partial(pairs_of_groups, pairs=settings.run.pairs)),
            compiled(make_reference(scorer), mesh, rows_out(settings.run.prompts * settings.run.pairs)),
            compiled_update(update, mesh, state, model.config),
        ),
        mesh=mesh,
        state=state,
    )
