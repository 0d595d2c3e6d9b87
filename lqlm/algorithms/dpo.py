"""Direct preference optimization and its relatives as an objective (DPO, arXiv:2305.18290).

The reference is the base without adapters.  Values and gradients are those of TRL's DPOTrainer (1.16), but for "cdpo",
which it does not have.  The losses themselves are in `lqlm.algorithms.preference`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp

from lqlm.algorithms import preference
from lqlm.algorithms.divergences import Divergence, divergence_score
from lqlm.algorithms.pairs import CHOSEN, PairBatch, mean_of, pair_weights, real_pairs, side_sums, weighted
from lqlm.algorithms.policy import token_weights
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.types import Array, PyTree

Loss = Literal[
    "sigmoid", "sigmoid_norm", "cdpo", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop", "aot", "aot_unpaired",
]  # fmt: skip
SMOOTHED = ("cdpo", "robust", "exo_pair", "aot", "aot_unpaired")  # those that read label_smoothing
WHOLE_BATCH = ("aot", "aot_unpaired")  # those that compare the pairs of a batch with each other
BY_SCORE = ("sigmoid", "sigmoid_norm", "cdpo", "robust", "hinge", "ipo", "exo_pair", "discopop")


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """The loss of DPO and of its relatives.

    Attributes:
      loss: one of `Loss`; the equations are in `lqlm.algorithms.preference`.
      beta: strength of the tie to the reference.
      label_smoothing: share of labels that are taken for wrong, below 1/2; of cdpo, robust, exo_pair and aot only.
      tau: temperature of discopop.
      divergence: what ties to the reference: ``reverse_kl`` (DPO), ``forward_kl``, ``js_divergence``,
        ``alpha_divergence``; of losses of a difference of log-ratios only.
      alpha: of the alpha-divergence.
      tail: weight of the tokens beyond the length of the shorter side (LD-DPO, arXiv:2409.06411: below 1).
      sft_weight: weight of the likelihood of the chosen completions, added to the loss (RPO, arXiv:2404.19733).
    """

    loss: Loss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    tau: float = 0.05
    divergence: Divergence = "reverse_kl"
    alpha: float = 0.5
    tail: float = 1.0
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        for name, known in (("loss", get_args(Loss)), ("divergence", get_args(Divergence))):
            if getattr(self, name) not in known:
                raise UserError(f"DPOConfig: unknown {name} {getattr(self, name)!r}: use {', '.join(known)}")
        if self.beta <= 0 or self.tau <= 0:
            raise UserError(f"DPOConfig: beta {self.beta}, tau {self.tau}: take more than 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"DPOConfig: label_smoothing {self.label_smoothing}: take 0 or more, and less than 0.5")
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise UserError(
                f"DPOConfig: loss {self.loss!r} reads no label_smoothing: take 0, or one of {', '.join(SMOOTHED)}"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise UserError("DPOConfig: loss 'exo_pair' takes the logarithm of label_smoothing: take more than 0")
        if self.divergence != "reverse_kl" and self.loss not in BY_SCORE:
            raise UserError(
                f"DPOConfig: loss {self.loss!r} knows no divergence {self.divergence!r}: take 'reverse_kl', "
                f"or one of {', '.join(BY_SCORE)}"
            )
        if not 0 <= self.tail <= 1 or self.sft_weight < 0:
            raise UserError(f"DPOConfig: tail {self.tail}, sft_weight {self.sft_weight}: take 0 to 1, and 0 or more")


class Sums(NamedTuple):
    """Summed log-probabilities of the completions of B pairs, each [B], and the lengths in tokens."""

    chosen: Array
    rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    chosen_length: Array
    rejected_length: Array


def sums_of(logp_BGC: Array, ref_logp_BGC: Array, mask_BGC: Array, tail: float = 1.0) -> Sums:
    """Log-probabilities of both sides of each pair, summed over their tokens.

    Args:
      logp_BGC: under the policy; G = 2: chosen, rejected.
      ref_logp_BGC: under the reference; has no gradient.
      mask_BGC: bool, true at real completion tokens; nothing is looked at where it is false.
      tail: weight of a side's tokens beyond the length of the other side.

    Returns:
      `Sums`; an empty side has sum 0 and length 0.
    """
    chex.assert_equal_shape([logp_BGC, ref_logp_BGC, mask_BGC])
    shared = jnp.all(mask_BGC, axis=-2, keepdims=True)  # completions begin at place 0, so these are the shared lengths
    weights = jnp.where(shared, 1.0, jnp.float32(tail))

    def sides(logp: Array) -> tuple[Array, Array]:
        return side_sums(logp * jnp.broadcast_to(weights, logp.shape), mask_BGC)

    return Sums(
        *sides(logp_BGC), *sides(jax.lax.stop_gradient(ref_logp_BGC)), *side_sums(jnp.ones_like(logp_BGC), mask_BGC)
    )


def pair_losses(sums: Sums, cfg: DPOConfig) -> Array:
    """The loss of each pair.

    Args:
      sums: of the pairs; of the full batch for the losses of `WHOLE_BATCH`.
      cfg: which loss, and its constants.

    Returns:
      float32 [B]; of `WHOLE_BATCH` in the order of the sorted margins.
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
    return losses[cfg.loss]()


Score = Callable[[PyTree, PyTree, PairBatch, Any], tuple[Array, Array]]


def dpo_objective(score: Score, cfg: DPOConfig) -> Objective:
    """DPO as `lqlm.algorithms.step.make_update` takes it, for batches of `PairBatch` with ``ref_logp_BGC``.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, entropy_BGC)`` of the completions of a batch.
      cfg: the constants of the loss.  Losses of `WHOLE_BATCH` need every row to be a pair, and one micro-batch.

    Returns:
      An `Objective`; the loss is the mean over the pairs of the full batch, the metrics are those of `mean_metrics`.
    """

    def prepare(batch: PairBatch) -> tuple[PairBatch, Array, Array]:
        mask = batch.completion_mask_BGC
        return batch, pair_weights(real_pairs(mask)), token_weights(mask[:, CHOSEN], "token")

    def loss(adapters: PyTree, base: PyTree, part: tuple[PairBatch, Array, Array], key: Any) -> tuple[Array, Metrics]:
        batch, pairs, tokens = part
        logp, entropy = score(adapters, base, batch, key)
        return dpo_loss(logp, entropy, batch, cfg, pairs, tokens)

    return Objective(loss, prepare, mean_metrics)


def dpo_loss(
    logp_BGC: Array, entropy_BGC: Array, batch: PairBatch, cfg: DPOConfig, pairs_B: Array, tokens_BC: Array
) -> tuple[Array, Metrics]:
    """Weighted sum of `pair_losses`, and of the chosen completions' negative log-likelihood where it has a weight.

    Args:
      logp_BGC: under the policy; the only argument with a gradient.
      entropy_BGC: of the tokens' distributions, for the metric.
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
    sums = sums_of(logp_BGC, batch.ref_logp_BGC, mask, cfg.tail)
    loss = weighted(pair_losses(sums, cfg), pairs_B)
    if cfg.sft_weight:
        chosen = jnp.where(mask[:, CHOSEN], logp_BGC[:, CHOSEN], 0.0)
        loss = loss - cfg.sft_weight * jnp.sum(tokens_BC * chosen)
    return loss, metric_sums(sums, entropy_BGC, batch, cfg)


def metric_sums(sums: Sums, entropy_BGC: Array, batch: PairBatch, cfg: DPOConfig) -> Metrics:
    """Sums over the real pairs (and over tokens) of some rows, which add up to those of the batch.

    Args:
      sums: of the pairs.
      entropy_BGC: of the tokens' distributions.
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
    }
    found = {name: jnp.sum(jnp.where(real, x, 0.0)) for name, x in per_pair.items()}
    found["entropy"] = jnp.sum(jnp.where(mask, entropy_BGC, 0.0))
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
    counts = ("loss", "pairs", "completion_tokens", "tokens")
    means = {name: x for name, x in sums.items() if name not in (*counts, "entropy")}
    entropy = {"entropy": sums["entropy"] / jnp.maximum(sums["completion_tokens"], 1.0)}
    return {name: sums[name] for name in counts if name in sums} | mean_of(means, sums["pairs"]) | entropy
