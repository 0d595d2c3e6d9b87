"""What policy and value function say of a batch, over one base."""

from collections.abc import Callable
from typing import Any

import jax

from experiments import trained
from experiments.ppo.settings import ActorCriticExperiment
from lqlm.adapters.configs import AdapterConfig
from lqlm.algorithms.actor_critic import Outputs, PPOBatch, Score, TextScore
from lqlm.algorithms.sft import SFTBatch
from lqlm.io.load import LoadedModel
from lqlm.models.heads import completion_values
from lqlm.models.score import completion_logprobs
from lqlm.models.targets import target_scores
from lqlm.types import Array, PyTree


def make_scorer(
    settings: ActorCriticExperiment, model: LoadedModel, value_adapter: AdapterConfig, *, entropy_gradient: bool
) -> Score:
    """``({"policy", "value"}, base, batch, dropout key or None) -> Outputs``; with a key, dropout is on.

    Args:
        settings: of the run.
        model: its shape is read.
        value_adapter: of the value function.
        entropy_gradient: whether gradients flow through the entropy.
    """
    logp, values = make_logp(settings, model, entropy_gradient), make_values(settings, model, value_adapter)

    def score(trained: PyTree, base: PyTree, batch: PPOBatch, key: Any) -> Outputs:
        policy_key, value_key = (None, None) if key is None else jax.random.split(key)
        found, entropy = logp(trained["policy"], base, batch, policy_key)
        return Outputs(found, entropy, values(trained["value"], base, batch, value_key))

    return score


def make_logp(
    settings: ActorCriticExperiment, model: LoadedModel, entropy_gradient: bool = False
) -> Callable[[PyTree, PyTree, PPOBatch, Any], tuple[Array, Any]]:
    """``(adapters or None, base, batch, dropout key or None) -> (logp_BGC, entropy_BGC)``."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def logp(adapters: PyTree, base: PyTree, batch: PPOBatch, key: Any) -> tuple[Array, Any]:
        return completion_logprobs(
            base,
            adapters,
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.experience.mask,
            model.config,
            temperature=settings.sampling.temperature,
            chunk=run.logprob_chunk,
            with_entropy=True,  # without a consumer, the compiler drops it
            entropy_gradient=entropy_gradient,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return logp


def make_values(
    settings: ActorCriticExperiment, model: LoadedModel, adapter: AdapterConfig
) -> Callable[[PyTree, PyTree, PPOBatch, Any], Array]:
    """``(adapters with score, base, batch, dropout key or None) -> values_BGC``."""
    dropout = trained.has_dropout(adapter)

    def values(value: PyTree, base: PyTree, batch: PPOBatch, key: Any) -> Array:
        return completion_values(
            base,
            _without_bias(value),
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.experience.mask,
            model.config,
            dropout_key=key if dropout else None,
            remat=settings.run.remat,
        )

    return values


def _without_bias(value: PyTree) -> PyTree:
    """The head's bias stays 0: sequence classifiers, as which the value function is written, have none."""
    head = value["score"]
    return {**value, "score": {**head, "bias": jax.lax.stop_gradient(head["bias"])}}


def make_text_scorer(settings: ActorCriticExperiment, model: LoadedModel) -> TextScore:
    """``({"policy", "value"}, base, rows, dropout key or None) -> TokenScores`` of pretraining rows."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def score(trained: PyTree, base: PyTree, rows: SFTBatch, key: Any) -> Any:
        return target_scores(
            base,
            trained["policy"],
            rows.tokens_BT,
            rows.segments_BT,
            rows.targets_BT,
            model.config,
            chunk=run.logprob_chunk,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return score
