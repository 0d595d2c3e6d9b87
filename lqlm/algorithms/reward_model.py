"""The objective of a reward model, and how well it tells pairs apart (losses: `lqlm.algorithms.reward_losses`).

The pairwise losses and metrics are those of TRL's RewardTrainer (1.16).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import chex
import jax
import jax.numpy as jnp

from lqlm.algorithms.pairs import CHOSEN, REJECTED, PairBatch, pair_weights, real_pairs, weighted
from lqlm.algorithms.reward_losses import bradley_terry, centring, classification, margin_ranking
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.masked import masked_mean, masked_sum
from lqlm.types import Array, PyTree

RewardLoss = Literal["bradley_terry", "margin_ranking", "classification", "regression"]


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
    """The loss of a reward model, on pairs or on single texts that have a score.

    Attributes:
      loss: of pairs ``bradley_terry``, ``margin_ranking``, or ``classification`` (chosen is good, rejected is not); of
        single texts ``classification`` (scores are 0 or 1) or ``regression``.
      margin: added to the margin of each pair: the lead that is asked for.
      center: weight of `centring`; TRL's ``center_rewards_coefficient`` (its paper takes 0.01).
    """

    loss: RewardLoss = "bradley_terry"
    margin: float = 0.0
    center: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if self.loss not in get_args(RewardLoss):
            raise UserError(f"RewardModelConfig: unknown loss {self.loss!r}: use {', '.join(get_args(RewardLoss))}")
        if self.center < 0:
            raise UserError(f"RewardModelConfig: center {self.center} drives rewards away from 0: take 0 or more")
        if self.loss == "margin_ranking" and self.margin < 0:
            raise UserError(f"RewardModelConfig: margin {self.margin} asks for a lag: take 0 or more")
        if self.loss in ("classification", "regression") and self.margin:
            raise UserError(f"RewardModelConfig: margin {self.margin} means nothing to {self.loss}: take 0")


def pair_losses(chosen: Array, rejected: Array, margin: Array, cfg: RewardModelConfig) -> Array:
    """The loss of each pair, `centring` included.

    Args:
      chosen: [B] rewards.
      rejected: [B] rewards.
      margin: [B] of the pairs, beside the config's own.
      cfg: which loss; `regression` is none of pairs.

    Returns:
      float32 [B].

    Raises:
      ValueError: for regression.
    """
    if cfg.loss == "regression":
        raise ValueError("a pair has no score to regress to; use another loss, or single texts")
    if cfg.loss == "bradley_terry":
        losses = bradley_terry(chosen, rejected, margin + cfg.margin)
    elif cfg.loss == "margin_ranking":
        losses = margin_ranking(chosen, rejected, 1.0, margin + cfg.margin)
    else:
        losses = classification(chosen, jnp.ones_like(chosen)) + classification(rejected, jnp.zeros_like(rejected))
    return losses + cfg.center * centring(chosen, rejected)


Score = Callable[[PyTree, PyTree, PairBatch, Any], Array]


def reward_model_objective(score: Score, cfg: RewardModelConfig) -> Objective:
    """A reward model as `lqlm.algorithms.step.make_update` takes it, for batches of type `PairBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> [B, 2]``, the rewards of chosen and rejected, in this order.
      cfg: the constants of the loss.

    Returns:
      An `Objective`; the loss is the mean over the pairs of the full batch, the metrics are those of `reward_metrics`
      and ``tokens``.
    """

    def prepare(batch: PairBatch) -> tuple[PairBatch, Array, Array, Array]:
        real = real_pairs(batch.completion_mask_BGC)
        # The rows of a unit matrix: by them a part writes its rewards to their places in the full batch.
        return batch, pair_weights(real), jnp.eye(len(real), dtype=jnp.float32), real

    def loss(adapters: PyTree, base: PyTree, part: tuple[Any, ...], key: Any) -> tuple[Array, Metrics]:
        batch, weights, places, real = part
        scores = score(adapters, base, batch, key)
        chosen, rejected = scores[:, CHOSEN], scores[:, REJECTED]
        value = weighted(pair_losses(chosen, rejected, batch.margin_B, cfg), weights)
        kept = jax.lax.stop_gradient(jnp.where(real[:, None], scores, 0.0))
        tokens = jnp.sum(batch.prompt_mask_BP & real[:, None]) + jnp.sum(batch.completion_mask_BGC)
        sums = {"chosen": kept[:, CHOSEN] @ places, "rejected": kept[:, REJECTED] @ places}
        return value, sums | {"real": real.astype(jnp.float32) @ places, "tokens": tokens.astype(jnp.float32)}

    def finish(sums: Metrics) -> Metrics:
        found = reward_metrics(sums["chosen"], sums["rejected"], sums["real"] > 0.5)
        return {"loss": sums["loss"], "tokens": sums["tokens"], **found}

    return Objective(loss, prepare, finish)


def reward_metrics(chosen: Array, rejected: Array, real: Array) -> Metrics:
    """Rewards of some pairs under TRL's names.

    Args:
      chosen: [B].
      rejected: [B].
      real: bool [B]; the others are left out.

    Returns:
      float32 []: ``min_reward``, ``mean_reward`` and ``max_reward`` of both sides together, ``accuracy`` (how often
      the chosen one has the greater reward: a tie is no success) and ``margin`` (the mean lead).  Of no pair: all 0.

    >>> found = reward_metrics(jnp.array([2.0, 1.0]), jnp.array([0.0, 3.0]), jnp.array([True, True]))
    >>> {name: float(x) for name, x in found.items()}
    {'min_reward': 0.0, 'mean_reward': 1.5, 'max_reward': 3.0, 'accuracy': 0.5, 'margin': 0.0}
    """
    chex.assert_equal_shape([chosen, rejected, real])
    both, mask = jnp.stack([chosen, rejected]), jnp.stack([real, real])
    some = jnp.any(real)
    return {
        "min_reward": jnp.where(some, jnp.min(jnp.where(mask, both, jnp.inf)), 0.0),
        "mean_reward": masked_mean(both, mask),
        "max_reward": jnp.where(some, jnp.max(jnp.where(mask, both, -jnp.inf)), 0.0),
        "accuracy": masked_mean(chosen > rejected, real),
        "margin": masked_mean(chosen - rejected, real),
    }


def calibration_error(margins: Array, real: Array, *, labels: Array | float = 1.0, bins: int = 10) -> Array:
    """Expected calibration error of ``sigma(r_c - r_r)`` as the probability that the chosen completion is preferred.

    ``sum_k n_k / n |accuracy_k - confidence_k|``: the confidence of a pair is ``sigma(|margin|)``, in one of K bins of
    equal width between 1/2 and 1; it is right where the margin is positive, and half right where it is 0.  Of single
    texts ``sigma(r)`` is the probability of the label 1, and a label t makes a positive score right by t.

    Naeini et al. 2015; Guo et al. (arXiv:1706.04599), equation 3.

    Args:
      margins: [N] leads of the chosen completions.
      real: bool [N]; the others are left out.
      labels: [N] between 0 and 1, of single texts.
      bins: K.

    Returns:
      float32 [], between 0 and 1; 0 of no pair.

    >>> sure = jnp.log(jnp.array([3.0, 3.0, 3.0, 1 / 3]))  # right in three of four, and three quarters sure
    >>> print(calibration_error(sure, jnp.ones(4, bool)).round(4))
    0.0
    """
    chex.assert_equal_shape([margins, real])
    confidence = jax.nn.sigmoid(jnp.abs(margins))
    right = 0.5 * (1.0 + jnp.sign(margins) * (2.0 * jnp.asarray(labels, jnp.float32) - 1.0))
    place = jnp.clip(jnp.floor((confidence - 0.5) * 2 * bins).astype(jnp.int32), 0, bins - 1)
    inside = (place[None] == jnp.arange(bins, dtype=jnp.int32)[:, None]) & real[None]
    gaps = masked_sum(jnp.broadcast_to((right - confidence)[None], inside.shape), inside, 1)
    return jnp.sum(jnp.abs(gaps)) / jnp.maximum(jnp.sum(real.astype(jnp.float32)), 1.0)
