"""The objective of a reward model on single texts, each with a label or a score.

The losses are those of `lqlm.algorithms.reward_losses`.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms.pairs import pair_weights, real_pairs, weighted
from lqlm.algorithms.reward_losses import classification, regression
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.algorithms.step import Metrics, Objective
from lqlm.types import Array, PyTree

SINGLE = {"classification": classification, "regression": regression}
"""Losses of single texts: functions of scores and targets."""


@flax.struct.dataclass
class ScoredBatch:
    """B prompts with one completion each (G = 1), and the number that it should get."""

    prompts_BP: Array  # int32, left-padded
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32, right-padded
    completion_mask_BGC: Array  # bool; a row that fills a batch up has none
    targets_B: Array  # float32: labels of 0 or 1 for `classification`, any number for `regression`


def scored_objective(score: Callable[[PyTree, PyTree, ScoredBatch, Any], Array], cfg: RewardModelConfig) -> Objective:
    """A reward model of single texts as `lqlm.algorithms.step.make_update` takes it, for batches of `ScoredBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> [B, 1]``.
      cfg: its loss, one of `SINGLE`.

    Returns:
      An `Objective`; the loss is the mean over the texts of the full batch that hold a token.  The metrics are
      ``mean_reward``, ``tokens`` and the means of `single_metrics`.

    Raises:
      ValueError: for a loss of pairs.
    """
    if cfg.loss not in SINGLE or cfg.center:
        raise ValueError(
            f"loss {cfg.loss!r}, center {cfg.center}: single texts take {' or '.join(SINGLE)}, and center 0"
        )

    def prepare(batch: ScoredBatch) -> tuple[ScoredBatch, Array, Array]:
        real = real_pairs(batch.completion_mask_BGC)
        return batch, pair_weights(real), real

    def value(
        adapters: PyTree, base: PyTree, part: tuple[ScoredBatch, Array, Array], key: Any
    ) -> tuple[Array, Metrics]:
        batch, weights, real = part
        scores = score(adapters, base, batch, key)[:, 0]
        kept = jax.lax.stop_gradient(scores)
        found = {"mean_reward": kept} | single_metrics(kept, batch.targets_B, cfg)
        tokens = jnp.sum(batch.prompt_mask_BP & real[:, None]) + jnp.sum(batch.completion_mask_BGC)
        sums = {name: weighted(x, weights) for name, x in found.items()} | {"tokens": tokens.astype(jnp.float32)}
        return weighted(SINGLE[cfg.loss](scores, batch.targets_B), weights), sums

    return Objective(value, prepare, lambda sums: sums)


def single_metrics(scores: Array, targets: Array, cfg: RewardModelConfig) -> Metrics:
    """What can be said of each of B single texts.

    Args:
      scores: [B].
      targets: [B].
      cfg: its loss.

    Returns:
      float32 [B]: ``accuracy``, whether a score is positive where the label is 1 and not where it is 0; of regression
      ``error``, the distance to the target.

    >>> single_metrics(jnp.array([2.0, 0.5]), jnp.array([1.0, 0.0]), RewardModelConfig("classification"))["accuracy"]
    Array([1., 0.], dtype=float32)
    """
    chex.assert_equal_shape([scores, targets])
    if cfg.loss == "regression":
        return {"error": jnp.abs(scores - targets)}
    return {"accuracy": ((scores > 0) == (targets > 0.5)).astype(jnp.float32)}
