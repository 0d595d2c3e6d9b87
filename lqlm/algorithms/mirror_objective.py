"""Magnetic mirror descent as an objective of a language model: a batch of prompts with all their legal answers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp

from lqlm.algorithms.mirror import answer_kl, answer_logp, expectation, legal_logp, mirror_losses
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class MirrorConfig:
    """The loss of magnetic mirror descent."""

    eta: float = 0.1  # step size: 1 / eta is the weight of the divergence from the policy before
    legal: float = 0.0  # weight of -log of the probability that an answer is legal at all

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if self.eta <= 0 or self.legal < 0:
            raise UserError(f"MirrorConfig: eta {self.eta}, legal {self.legal}: take more than 0, and 0 or more")


@flax.struct.dataclass
class MirrorBatch:
    """B prompts with A answers each, which are all that are legal; prompts left-padded, answers right-padded."""

    prompts_BP: Array  # int32
    prompt_mask_BP: Array  # bool
    answers_BAC: Array  # int32
    answer_mask_BAC: Array  # bool; an answer without tokens is not legal
    values_BA: Array  # float32, q(s, a)
    old_logp_BA: Array  # float32, of `answer_logp` before the first update on these values
    magnet_BA: Array  # float32, the same of the policy that attracts
    weights_B: Array  # float32, what a prompt counts for; they are divided by their sum
    alpha: Array  # float32 [], the pull of the magnet

    @property
    def mask_BA(self) -> Array:
        """Which answers are legal."""
        return jnp.any(self.answer_mask_BAC, axis=-1)


Score = Callable[[PyTree, PyTree, MirrorBatch, Any], Array]
"""``(adapters, base, batch, key) -> scores_BA``, log-probabilities of whole answers under the model."""
Losses = Callable[..., Array]
"""`mirror_losses` or `replicator_losses`, or another function with their arguments."""


def mirror_objective(score: Score, cfg: MirrorConfig, losses: Losses = mirror_losses) -> Objective:
    """Magnetic mirror descent as `lqlm.algorithms.step.make_update` takes it, for batches of type `MirrorBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> scores_BA``, the log-probability of each answer.
      cfg: the constants of the loss.
      losses: of the prompts of a batch.

    Returns:
      An `Objective`; the loss is the weighted mean of the losses over the prompts of the full batch.  Metrics are
      such means too: ``value`` (sum_a pi q), ``entropy``, ``kl_magnet``, ``kl_old``, and ``legal``, the log-probability
      that an answer is legal.
    """

    def prepare(batch: MirrorBatch) -> tuple[MirrorBatch, Array]:
        weights = jnp.where(jnp.any(batch.mask_BA, axis=-1), batch.weights_B, 0.0)
        return batch, weights / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)

    def loss(adapters: PyTree, base: PyTree, part: tuple[MirrorBatch, Array], key: Any) -> tuple[Array, Metrics]:
        batch, weights = part
        return mirror_loss(score(adapters, base, batch, key), batch, weights, cfg, losses)

    return Objective(loss, prepare, lambda sums: sums)


def mirror_loss(
    scores_BA: Array, batch: MirrorBatch, weights_B: Array, cfg: MirrorConfig, losses: Losses = mirror_losses
) -> tuple[Array, Metrics]:
    """Weighted sum of the prompts' losses, and of the answers' legality where it has a weight.

    Args:
      scores_BA: [B, A], log-probabilities of whole answers; the only argument with a gradient.
      batch: or a part of one.
      weights_B: of each prompt in the full batch; they sum to 1 there.
      cfg: the constants of the loss.
      losses: of the prompts of a batch.

    Returns:
      (loss [], means that add up over micro-batches, as `mirror_objective` names them).
    """
    mask, logp = batch.mask_BA, answer_logp(scores_BA, batch.mask_BA)
    policies = (logp, batch.values_BA, batch.old_logp_BA, batch.magnet_BA, mask)
    legal = legal_logp(scores_BA, mask)
    each = losses(*policies, alpha=batch.alpha, eta=cfg.eta) - cfg.legal * legal
    means = {
        "value": expectation(logp, batch.values_BA, mask),
        "entropy": -expectation(logp, logp, mask),
        "kl_magnet": answer_kl(logp, batch.magnet_BA, mask),
        "kl_old": answer_kl(logp, batch.old_logp_BA, mask),
        "legal": legal,
    }
    return jnp.sum(weights_B * each), {name: jnp.sum(weights_B * x) for name, x in means.items()}
