"""Direct preference optimization and its relatives as an objective (DPO, arXiv:2305.18290).

The reference is the base without adapters.  Values and gradients are those of TRL's DPOTrainer (1.16), but for "cdpo",
which it does not have.  The losses themselves are in `lqlm.algorithms.preference`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lqlm.algorithms import preference
from lqlm.algorithms.divergences import divergence_score
from lqlm.algorithms.dpo_config import DPOConfig, Loss
from lqlm.algorithms.pairs import CHOSEN, PairBatch, mean_of, pair_weights, real_pairs, side_sums, weighted
from lqlm.algorithms.policy import token_weights
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.logprobs import TokenStatistics
from lqlm.types import Array, PyTree

SIDES = ("chosen", "rejected")
PER_TOKEN = {  # metrics that are means over tokens, and the names of these tokens' numbers
    "entropy": "completion_tokens",
    "mean_token_accuracy": "chosen_tokens",
    "logits/chosen": "chosen_tokens",
    "logits/rejected": "rejected_tokens",
}


class Sums(NamedTuple):
    """Summed log-probabilities of the completions of B pairs, each [B], the lengths in tokens, and weights."""

    chosen: Array
    rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    chosen_length: Array
    rejected_length: Array
    weight: Array


def wpo_weights(logp_BGC: Array, log_collision_BGC: Array, mask_BGC: Array) -> Array:
    """How likely the policy itself is to write a pair: ``prod_sides exp(mean_t (log p_t - log sum_v p_tv^2))``.

    Weighted preference optimization (arXiv:2406.11827, equation 2, "sampled alignment"), as in TRL: pairs that the
    policy would hardly sample count less.  A token is measured against the probability that two draws agree, so that a
    policy that is unsure of everything does not lower all weights.

    Args:
      logp_BGC: under the policy; G = 2: chosen, rejected.
      log_collision_BGC: log sum_v p_v^2 of the tokens' distributions.
      mask_BGC: bool, true at real completion tokens.

    Returns:
      float32 [B], without a gradient; an empty side counts as 1.

    >>> p = jnp.full((1, 2, 3), 0.25)
    >>> print(wpo_weights(jnp.log(p), jnp.log(2 * p), p > 0))
    [0.25]
    """
    chex.assert_equal_shape([logp_BGC, log_collision_BGC, mask_BGC])
    aligned = jax.lax.stop_gradient(logp_BGC - log_collision_BGC)
    sums, lengths = side_sums(aligned, mask_BGC), side_sums(jnp.ones_like(aligned), mask_BGC)
    chosen, rejected = (jnp.exp(x / jnp.maximum(n, 1.0)) for x, n in zip(sums, lengths))
    return chosen * rejected


def sums_of(
    logp_BGC: Array, ref_logp_BGC: Array, mask_BGC: Array, tail: float = 1.0, log_collision_BGC: Array | None = None
) -> Sums:
    """Log-probabilities of both sides of each pair, summed over their tokens.

    Args:
      logp_BGC: under the policy; G = 2: chosen, rejected.
      ref_logp_BGC: under the reference; has no gradient.
      mask_BGC: bool, true at real completion tokens; nothing is looked at where it is false.
      tail: weight of a side's tokens beyond the length of the other side.
      log_collision_BGC: for `wpo_weights`; None: all pairs count alike.

    Returns:
      `Sums`; an empty side has sum 0 and length 0.
    """
    chex.assert_equal_shape([logp_BGC, ref_logp_BGC, mask_BGC])
    shared = jnp.all(mask_BGC, axis=-2, keepdims=True)  # completions begin at place 0, so these are the shared lengths
    weights = jnp.where(shared, 1.0, jnp.float32(tail))

    def sides(logp: Array) -> tuple[Array, Array]:
        return side_sums(logp * jnp.broadcast_to(weights, logp.shape), mask_BGC)

    lengths = side_sums(jnp.ones_like(logp_BGC), mask_BGC)
    pairs = jnp.ones(mask_BGC.shape[:-2], jnp.float32)
    weight = pairs if log_collision_BGC is None else wpo_weights(logp_BGC, log_collision_BGC, mask_BGC)
    return Sums(*sides(logp_BGC), *sides(jax.lax.stop_gradient(ref_logp_BGC)), *lengths, weight)


def pair_losses(sums: Sums, cfg: DPOConfig) -> Array:
    """The loss of each pair, times its weight.

    Args:
      sums: of the pairs; of the full batch for the losses of `lqlm.algorithms.dpo_config.WHOLE_BATCH`.
      cfg: which loss, and its constants.

    Returns:
      float32 [B]; of those in the order of the sorted margins.
    """
    ratios = sums.chosen - sums.ref_chosen, sums.rejected - sums.ref_rejected
    c, r = (divergence_score(ratio, cfg.divergence, cfg.alpha) for ratio in ratios)
    lengths, beta, noise = (sums.chosen_length, sums.rejected_length), cfg.beta, cfg.label_smoothing
    margins = sums.chosen - sums.rejected, sums.ref_chosen - sums.ref_rejected
    losses: dict[Loss, Callable[[], Array]] = {
        "sigmoid": lambda: preference.sigmoid_loss(c, r, beta=beta),
        "sigmoid_norm": lambda: preference.sigmoid_norm_loss(c, r, *lengths, beta=beta),
        "cdpo": lambda: preference.smoothed_loss(c, r, beta=beta, label_smoothing=noise),
        "robust": lambda: preference.robust_loss(c, r, beta=beta, label_smoothing=noise),
        "hinge": lambda: preference.hinge_loss(c, r, beta=beta),
        "ipo": lambda: preference.ipo_loss(c, r, *lengths, beta=beta),
        "exo_pair": lambda: preference.exo_loss(c, r, beta=beta, label_smoothing=noise),
        "nca_pair": lambda: preference.nca_loss(c, r, beta=beta),
        "bco_pair": lambda: preference.bco_loss(c, r, beta=beta),
        "sppo_hard": lambda: preference.sppo_loss(c, r, beta=beta),
        "apo_zero": lambda: preference.apo_zero_loss(c, r, beta=beta),
        "apo_down": lambda: preference.apo_down_loss(c, r, beta=beta),
        "discopop": lambda: preference.discopop_loss(c, r, beta=beta, tau=cfg.tau),
        "aot": lambda: preference.aot_loss(*margins, beta=beta, label_smoothing=noise),
        "aot_unpaired": lambda: preference.aot_unpaired_loss(c, r, beta=beta, label_smoothing=noise),
    }
    return losses[cfg.loss]() * sums.weight


Score = Callable[[PyTree, PyTree, PairBatch, Any], tuple[Array, TokenStatistics]]


def dpo_objective(score: Score, cfg: DPOConfig) -> Objective:
    """DPO as `lqlm.algorithms.step.make_update` takes it, for batches of `PairBatch` with ``ref_logp_BGC``.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, statistics)`` of the completions of a batch.
      cfg: the constants of the loss.  Those of `lqlm.algorithms.dpo_config.WHOLE_BATCH` need every row to be a pair,
        and one micro-batch.

    Returns:
      An `Objective`; the loss is the mean over the pairs of the full batch, the metrics are those of `mean_metrics`.
    """

    def prepare(batch: PairBatch) -> tuple[PairBatch, Array, Array]:
        mask = batch.completion_mask_BGC
        return batch, pair_weights(real_pairs(mask)), token_weights(mask[:, CHOSEN], "token")

    def loss(adapters: PyTree, base: PyTree, part: tuple[PairBatch, Array, Array], key: Any) -> tuple[Array, Metrics]:
        batch, pairs, tokens = part
        return dpo_loss(*score(adapters, base, batch, key), batch, cfg, pairs, tokens)

    return Objective(loss, prepare, mean_metrics)


def dpo_loss(
    logp_BGC: Array, seen: TokenStatistics, batch: PairBatch, cfg: DPOConfig, pairs_B: Array, tokens_BC: Array
) -> tuple[Array, Metrics]:
    """Weighted sum of `pair_losses`, and of the chosen completions' negative log-likelihood where it has a weight.

    Args:
      logp_BGC: under the policy; the only argument with a gradient.
      seen: of the tokens' distributions, [B, 2, C] each, for metrics and `wpo_weights`.
      batch: the pairs, with the reference's log-probabilities.
      cfg: the constants of the loss.
      pairs_B: weight of each pair in the full batch, of `pair_weights`.
      tokens_BC: weight of each chosen token in the full batch, of `lqlm.algorithms.policy.token_weights`.

    Returns:
      (loss [], sums over pairs and tokens, which `mean_metrics` finishes).

    Raises:
      UserError: when the batch holds no log-probabilities of the reference.
    """
    if batch.ref_logp_BGC is None:
        raise UserError("dpo: the batch has no ref_logp_BGC: score it with the base without adapters first")
    mask = batch.completion_mask_BGC.astype(bool)
    sums = sums_of(logp_BGC, batch.ref_logp_BGC, mask, cfg.tail, seen.log_collision if cfg.wpo else None)
    loss = weighted(pair_losses(sums, cfg), pairs_B)
    if cfg.sft_weight:
        chosen = jnp.where(mask[:, CHOSEN], logp_BGC[:, CHOSEN], 0.0)
        loss = loss - cfg.sft_weight * jnp.sum(tokens_BC * chosen)
    return loss, metric_sums(sums, seen, batch, cfg)


def metric_sums(sums: Sums, seen: TokenStatistics, batch: PairBatch, cfg: DPOConfig) -> Metrics:
    """Sums over the real pairs (and over tokens) of some rows, which add up to those of the batch.

    Args:
      sums: of the pairs.
      seen: of the tokens' distributions, [B, 2, C] each.
      batch: the pairs.
      cfg: of the loss.

    Returns:
      float32 [] each, without a gradient: TRL's metrics, and the numbers of ``pairs``, of ``completion_tokens`` and of
      ``tokens`` (prompts counted once).
    """
    mask = batch.completion_mask_BGC.astype(bool)
    real = real_pairs(mask)
    rewards = cfg.beta * (sums.chosen - sums.ref_chosen), cfg.beta * (sums.rejected - sums.ref_rejected)
    per_pair = {
        "rewards/chosen": rewards[0],
        "rewards/rejected": rewards[1],
        "rewards/accuracies": (rewards[0] > rewards[1]).astype(jnp.float32),
        "rewards/margins": rewards[0] - rewards[1],
        "logps/chosen": sums.chosen,
        "logps/rejected": sums.rejected,
        "wpo_weight": sums.weight,
    }
    found = {name: jnp.sum(jnp.where(real, x, 0.0)) for name, x in per_pair.items()}
    found["entropy"] = jnp.sum(jnp.where(mask, seen.entropy, 0.0))
    found["mean_token_accuracy"] = jnp.sum((mask & seen.correct)[:, CHOSEN].astype(jnp.float32))
    for name, x, n in zip(SIDES, side_sums(seen.mean_logit, mask), side_sums(jnp.ones_like(seen.mean_logit), mask)):
        found |= {f"logits/{name}": jnp.sum(x), f"{name}_tokens": jnp.sum(n)}
    prompts = batch.prompt_mask_BP & real[:, None]
    counts = {"pairs": jnp.sum(real), "completion_tokens": jnp.sum(mask), "tokens": jnp.sum(prompts) + jnp.sum(mask)}
    found |= {name: x.astype(jnp.float32) for name, x in counts.items()}
    return jax.tree.map(jax.lax.stop_gradient, found)


def mean_metrics(sums: Metrics) -> Metrics:
    """Turn sums over pairs and tokens into means, under TRL's names.

    Args:
      sums: of `metric_sums`, added up; a ``loss`` among them and the counts stay as they are.

    Returns:
      The same names, float32 [] each.
    """
    counts = ("loss", "pairs", "completion_tokens", "tokens", *PER_TOKEN.values())
    means = {name: x for name, x in sums.items() if name not in (*counts, *PER_TOKEN)}
    tokens = {name: sums[name] / jnp.maximum(sums[count], 1.0) for name, count in PER_TOKEN.items()}
    return {name: sums[name] for name in counts if name in sums} | mean_of(means, sums["pairs"]) | tokens
