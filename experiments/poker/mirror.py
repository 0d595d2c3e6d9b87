"""What self-play in small games and at the table share: how a model scores the answers of a batch, and the losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import trained
from experiments.settings import Experiment
from lqlm.algorithms.mirror import mirror_losses, replicator_losses
from lqlm.algorithms.mirror_objective import MirrorBatch, Score
from lqlm.io.load import LoadedModel
from lqlm.models.score import completion_logprobs
from lqlm.poker.policy import Batch
from lqlm.types import Array, PyTree

LOSSES = {"mirror": mirror_losses, "replicator": replicator_losses}


def make_score(settings: Experiment, model: LoadedModel) -> Score:
    """``(adapters, base, batch, dropout key or None) -> scores_BA``; a prompt is computed once for its answers."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: MirrorBatch, key: Any) -> Array:
        logp, _ = completion_logprobs(
            base,
            adapters,
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.answers_BAC,
            batch.answer_mask_BAC,
            model.config,
            chunk=run.logprob_chunk,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )
        return jnp.sum(logp, axis=-1, where=batch.answer_mask_BAC)

    return score


def batch_of(asked: Batch, *rest: np.ndarray) -> MirrorBatch:
    """Prompts and answers beside values, old policy, magnet, weights and alpha."""
    return MirrorBatch(*asked, *(np.asarray(x, np.float32) for x in rest))  # type: ignore[arg-type, call-arg]


def without_values(asked: Batch) -> MirrorBatch:
    """Prompts and answers to be scored only."""
    nothing = np.zeros(asked.answers_BGC.shape[:2])
    return jax.tree.map(jnp.asarray, batch_of(asked, nothing, nothing, nothing, nothing[:, 0], np.zeros(())))
