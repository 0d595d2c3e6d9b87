"""From settings to objects: the data, the model, and the compiled functions of a step.

The reference is scored in each step, by the base without adapters: a run sees a pair once or a few times, so that to
score all pairs beforehand would cost more, and there is nothing to keep, to check and to resume.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import trained
from experiments.dpo.settings import DPOExperiment
from experiments.keys import keys
from experiments.mesh import compiled, compiled_update, rows_out
from experiments.pairs.setup import PairSetup, begin, initial_state
from experiments.settings import Experiment, scheduled
from lqlm.algorithms.dpo import Sums, dpo_objective, pair_losses, sums_of
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.step import Metrics, TrainState, make_update
from lqlm.io.load import LoadedModel
from lqlm.logprobs import TokenStatistics
from lqlm.models.score import completion_statistics
from lqlm.optim.chains import make_optimizer
from lqlm.sharding import replicated
from lqlm.types import Array, PyTree

Scorer = Callable[[PyTree, PyTree, PairBatch, Any], tuple[Array, TokenStatistics]]


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once."""

    update: Callable[..., tuple[TrainState, Metrics]]
    reference: Callable[[PyTree, PairBatch], Array]  # (base, batch) -> ref_logp_BGC
    sums: Callable[[PyTree, PyTree, PairBatch], Sums]  # (base, adapters, batch) -> of policy and reference
    judge: Callable[[Sums], Metrics]  # sums of N held-out pairs -> metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPOSetup(PairSetup):
    """A run of DPO, ready to begin."""

    settings: DPOExperiment
    functions: Functions


def build(settings: DPOExperiment) -> DPOSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps))
    begun = begin(settings, keys(settings.seed)[0])
    state, scorer = initial_state(begun, begun.adapters, optimizer), make_scorer(settings, begun.model)
    update = make_update(dpo_objective(scorer, settings.dpo), optimizer, micro_batches=settings.run.micro_batches)
    reference = make_reference(scorer)

    def sums(base: PyTree, adapters: PyTree, batch: PairBatch) -> Sums:
        (logp, seen), cfg = scorer(adapters, base, batch, None), settings.dpo
        arrays = logp, reference(base, batch), batch.completion_mask_BGC
        return sums_of(*arrays, cfg.tail, seen.log_collision if cfg.wpo else None)

    return DPOSetup(
        settings=settings,
        model=begun.model,
        data=begun.data,
        fingerprint=begun.data.fingerprint,
        functions=Functions(
            compiled_update(update, begun.mesh, state, begun.model.config),
            compiled(reference, begun.mesh, rows_out(settings.run.pairs)),
            compiled(sums, begun.mesh, replicated),
            jax.jit(make_judge(settings)),
        ),
        mesh=begun.mesh,
        state=state,
    )


def make_scorer(settings: Experiment, model: LoadedModel) -> Scorer:
    """``(adapters, base, batch, dropout key or None) -> (logp_BGC, statistics)``; a prompt is computed once a pair."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: PairBatch, key: Any) -> Any:
        return completion_statistics(
            base,
            adapters,
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.completion_mask_BGC,
            model.config,
            chunk=run.logprob_chunk,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return score


def make_reference(scorer: Scorer) -> Callable[[PyTree, PairBatch], Array]:
    """``(base, batch) -> ref_logp_BGC``, of the base without adapters."""

    def reference(base: PyTree, batch: PairBatch) -> Array:
        return scorer(None, base, batch, None)[0]

    return reference


def make_judge(settings: DPOExperiment) -> Callable[[Sums], Metrics]:
    """``sums of N held-out pairs -> metrics``: rewards are ``beta`` times log-ratios, as TRL names them."""
    cfg = settings.dpo

    def judge(sums: Sums) -> Metrics:
        chosen, rejected = (cfg.beta * (a - b) for a, b in zip(sums[:2], sums[2:4]))
        means = {
            "loss": pair_losses(sums, cfg),
            "rewards/accuracies": chosen > rejected,
            "rewards/margins": chosen - rejected,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "logps/chosen": sums.chosen,
            "logps/rejected": sums.rejected,
            "logps/accuracies": sums.chosen > sums.rejected,
        }
        return {name: jnp.mean(x.astype(jnp.float32)) for name, x in means.items()}

    return judge
