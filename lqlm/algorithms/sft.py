"""Supervised fine-tuning as functions of arrays: the likelihood of given tokens, and which of them count.

Equal to TRL's SFTTrainer (1.16): the sum over the targets of the full batch, all micro-batches together, divided by
their number.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms import policy
from lqlm.algorithms.step import Metrics, Objective
from lqlm.logprobs import TokenScores
from lqlm.masked import masked_sum
from lqlm.types import Array, PyTree


@flax.struct.dataclass
class SFTBatch:
    """Rows of text; of a packed row, each segment is a text of its own."""

    tokens_BT: Array  # int32
    segments_BT: Array  # int32: 0 is padding, 1 and up are the texts of the row
    targets_BT: Array  # bool: tokens that are to be predicted from those before them; never a segment's first


Loss = Callable[[Array, Array], Array]  # (logp, weights) -> [], added up over micro-batches
Score = Callable[[PyTree, PyTree, SFTBatch, Any], TokenScores]


def nll_loss(logp: Array, weights: Array) -> Array:
    """Negative log-likelihood, ``-sum_t w_t log p_t``: cross-entropy.

    Args:
      logp: [...] log-probabilities of the targets; the only argument with a gradient.
      weights: [...] of the tokens, as from `target_weights`; what has weight 0 is not looked at.

    Returns:
      float32 [].

    >>> print(nll_loss(jnp.log(jnp.array([0.5, 0.25])), jnp.array([0.5, 0.5])).round(4))
    1.0397
    """
    chex.assert_equal_shape([logp, weights])
    return -jnp.sum(weights * jnp.where(weights > 0, logp, 0.0))


def dft_loss(logp: Array, weights: Array) -> Array:
    """Dynamic fine-tuning, ``-sum_t w_t sg(p_t) log p_t``, whose gradient is that of ``-sum_t w_t p_t``.

    Wu et al. 2025, arXiv:2508.05629: cross-entropy weighs a token by 1/p, which this takes away again.

    Args:
      logp: [...] log-probabilities of the targets; the only argument with a gradient.
      weights: [...] of the tokens, as from `target_weights`; what has weight 0 is not looked at.

    Returns:
      float32 [].

    >>> print(dft_loss(jnp.log(jnp.array([0.5, 0.25])), jnp.array([0.5, 0.5])).round(4))
    0.3466
    """
    chex.assert_equal_shape([logp, weights])
    logp = jnp.where(weights > 0, logp, 0.0)
    return -jnp.sum(weights * jax.lax.stop_gradient(jnp.exp(logp)) * logp)


def target_weights(targets: Array) -> Array:
    """Weight of each token, ``1 / n`` at the n targets of the full batch and 0 elsewhere.

    Args:
      targets: bool [...] of the full batch, not of a part of it.

    Returns:
      float32 [...]; all 0 where there is no target.
    """
    return policy.token_weights(targets, "token")


def sft_objective(score: Score, loss: Loss = nll_loss) -> Objective:
    """Supervised fine-tuning as `lqlm.algorithms.step.make_update` takes it, for batches of type `SFTBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> TokenScores`` of [B, T], at the targets.
      loss: `nll_loss` or `dft_loss`.

    Returns:
      An `Objective`; its metrics are those of `mean_scores`.
    """

    def prepare(batch: SFTBatch) -> tuple[SFTBatch, Array]:
        return batch, target_weights(batch.targets_BT)

    def value(adapters: PyTree, base: PyTree, part: tuple[SFTBatch, Array], key: Any) -> tuple[Array, Metrics]:
        batch, weights = part
        scores = score(adapters, base, batch, key)
        return loss(scores.logp, weights), score_sums(scores, batch)

    return Objective(value, prepare, mean_scores)


def score_sums(scores: TokenScores, batch: SFTBatch) -> Metrics:
    """Sums over the targets of a part of a batch, which add up to those of the batch.

    Args:
      scores: of [B, T], at the targets.
      batch: that was scored.

    Returns:
      float32 [] each: ``nll``, ``entropy``, ``mean_token_accuracy``, and the numbers of ``targets`` and ``tokens``.
    """
    mask = batch.targets_BT
    per_target = {"nll": -scores.logp, "entropy": scores.entropy, "mean_token_accuracy": scores.correct}
    sums = {name: masked_sum(jax.lax.stop_gradient(x), mask) for name, x in per_target.items()}
    counts = {"targets": mask, "tokens": batch.segments_BT > 0}
    return sums | {name: jnp.sum(x.astype(jnp.float32)) for name, x in counts.items()}


def mean_scores(sums: Metrics) -> Metrics:
    """Turn sums over all targets into means, under TRL's names.

    Args:
      sums: of `score_sums`, added up; a ``loss`` among them stays as it is, and so do the two counts.

    Returns:
      The same names, float32 [] each.
    """
    n = jnp.maximum(sums["targets"], 1.0)
    finished = ("loss", "targets", "tokens")
    return {name: x if name in finished else x / n for name, x in sums.items()}
