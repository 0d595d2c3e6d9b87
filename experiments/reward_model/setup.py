"""From settings to objects: the data, the model with its head, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import trained
from experiments.keys import keys
from experiments.mesh import compiled, compiled_update
from experiments.pairs.setup import PairSetup, begin, initial_state
from experiments.reward_model.settings import RewardModelExperiment
from experiments.settings import scheduled
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.reward_model import (
    calibration_error,
    pair_losses,
    reward_metrics,
    reward_model_objective,
)
from lqlm.algorithms.step import Metrics, TrainState, make_update
from lqlm.io.load import LoadedModel
from lqlm.models.heads import completion_scores, init_scalar_head
from lqlm.optim.chains import make_optimizer
from lqlm.sharding import replicated
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once."""

    update: Callable[..., tuple[TrainState, Metrics]]
    score: Callable[[PyTree, PyTree, PairBatch], Array]  # (base, adapters, batch) -> [B, 2]
    judge: Callable[[Array, Array], Metrics]  # (scores [N, 2], margins [N]) -> held-out metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSetup(PairSetup):
    """A run of a reward model, ready to begin."""

    settings: RewardModelExperiment
    functions: Functions


def build(settings: RewardModelExperiment) -> RewardModelSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps))
    adapters_key, head_key = jax.random.split(keys(settings.seed)[0])
    begun = begin(settings, adapters_key)
    head = jax.tree.map(lambda x: settings.head * x, init_scalar_head(head_key, begun.model.config.width))
    tree = {**begun.adapters, "score": head}
    initial = trained.kept(begun.adapters, settings.adapter)
    state, scorer = initial_state(begun, tree, optimizer), make_scorer(settings, begun.model)
    objective = reward_model_objective(scorer, settings.reward)
    update = make_update(objective, optimizer, micro_batches=settings.run.micro_batches)
    return RewardModelSetup(
        settings=settings,
        model=begun.model,
        data=begun.data,
        fingerprint=begun.data.fingerprint,
        functions=Functions(
            compiled_update(update, begun.mesh, state, begun.model.config),
            compiled_score(scorer, begun.mesh),
            jax.jit(make_judge(settings)),
        ),
        initial=initial,
        mesh=begun.mesh,
        state=state,
    )


def make_scorer(settings: RewardModelExperiment, model: LoadedModel) -> Callable[..., Array]:
    """``(adapters, base, batch, dropout key or None) -> [B, 2]``; a prompt is computed once for both completions."""
    dropout = trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: PairBatch, key: Any) -> Array:
        return completion_scores(
            base,
            without_bias(adapters),
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.completion_mask_BGC,
            model.config,
            dropout_key=key if dropout else None,
            remat=settings.run.remat,
        )

    return score


def without_bias(adapters: PyTree) -> PyTree:
    """The tree whose head's bias is not trained: classifiers of transformers, as which it is written, have none."""
    head = adapters["score"]
    return {**adapters, "score": {**head, "bias": jax.lax.stop_gradient(head["bias"])}}


def compiled_score(scorer: Callable[..., Array], mesh: Mesh | None) -> Callable[[PyTree, PyTree, PairBatch], Array]:
    """``(base, adapters, batch) -> [B, 2]``; on a mesh every process gets all of it."""
    return compiled(lambda base, adapters, batch: scorer(adapters, base, batch, None), mesh, replicated)


def make_judge(settings: RewardModelExperiment) -> Callable[[Array, Array], Metrics]:
    """``(scores [N, 2], margins [N]) -> metrics`` of N held-out pairs."""

    def judge(scores: Array, margins: Array) -> Metrics:
        chosen, rejected, real = scores[:, 0], scores[:, 1], jnp.ones(len(scores), bool)
        found = reward_metrics(chosen, rejected, real)
        found["loss"] = jnp.mean(pair_losses(chosen, rejected, margins, settings.reward))
        found["calibration_error"] = calibration_error(chosen - rejected, real, bins=settings.bins)
        return found

    return judge
