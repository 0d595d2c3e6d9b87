"""Group relative policy optimization as a function of arrays (DeepSeekMath, arXiv:2402.03300)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm import logprobs
from lqlm.algorithms import policy
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.masked import masked_sum
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """The loss of GRPO and of its relatives.

    DeepSeekMath is the default.  DAPO: ``epsilon_high=0.28, beta=0, reduction="token"``.  Dr. GRPO: ``beta=0,
    reduction="constant"`` with `lqlm.algorithms.advantages.centered_advantages`.
    """

    epsilon_low: float = 0.2  # the ratio is rewarded down to 1 - epsilon_low
    epsilon_high: float = 0.2  # and up to 1 + epsilon_high
    beta: float = 0.04  # weight of the divergence from the reference; 0 needs no reference
    reduction: policy.Reduction = "sequence"
    max_length: int | None = None  # tokens; for the reduction "constant" only
    kl: Literal["k3", "k3_corrected"] = "k3"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if not (0 < self.epsilon_low < 1 and self.epsilon_high > 0):
            raise UserError(
                f"GRPOConfig: epsilon_low {self.epsilon_low}, epsilon_high {self.epsilon_high}: "
                "take epsilon_low between 0 and 1 and epsilon_high above 0"
            )
        if self.beta < 0:
            raise UserError(f"GRPOConfig: beta {self.beta} rewards divergence: take 0 or more")
        if self.reduction not in ("sequence", "token", "constant"):
            raise UserError(f"GRPOConfig: unknown reduction {self.reduction!r}: use 'sequence', 'token' or 'constant'")
        if self.reduction == "constant" and not (self.max_length and self.max_length > 0):
            raise UserError(f"GRPOConfig: reduction 'constant' with max_length {self.max_length}: set it in tokens")
        if self.kl not in ("k3", "k3_corrected"):
            raise UserError(f"GRPOConfig: unknown kl {self.kl!r}: use 'k3' or 'k3_corrected'")


@flax.struct.dataclass
class GRPOBatch:
    """Rollouts of B prompts with G completions each; prompts left-padded, completions right-padded."""

    prompts_BP: Array  # int32
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32
    completion_mask_BGC: Array  # bool, true up to and including the EOS
    advantages_BG: Array  # float32
    old_logp_BGC: Array | None = None  # float32; None where each rollout serves one update
    ref_logp_BGC: Array | None = None  # float32, of the base without adapters; None where beta is 0


Score = Callable[[PyTree, PyTree, GRPOBatch, Any], tuple[Array, Array]]


def grpo_objective(score: Score, cfg: GRPOConfig) -> Objective:
    """GRPO as `lqlm.algorithms.step.make_update` takes it, for batches of type `GRPOBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, entropy_BGC)`` of the completions of a batch, whose B is that
        of a micro-batch.
      cfg: the constants of the loss.

    Returns:
      An `Objective`; its metrics are those of `mean_metrics`, and ``entropy``.
    """

    def prepare(batch: GRPOBatch) -> tuple[GRPOBatch, Array]:
        return batch, policy.token_weights(batch.completion_mask_BGC, cfg.reduction, max_length=cfg.max_length)

    def loss(adapters: PyTree, base: PyTree, part: tuple[GRPOBatch, Array], key: Any) -> tuple[Array, Metrics]:
        batch, weights = part
        logp, entropy = score(adapters, base, batch, key)
        mask = batch.completion_mask_BGC
        value, sums = grpo_loss(logp, batch.old_logp_BGC, batch.ref_logp_BGC, batch.advantages_BG, mask, cfg, weights)
        return value, sums | {"entropy": token_sum(entropy, mask)}

    return Objective(loss, prepare, mean_metrics)


def grpo_loss(
    logp: Array,
    old_logp: Array | None,
    ref_logp: Array | None,
    advantages: Array,
    mask: Array,
    cfg: GRPOConfig,
    weights: Array | None = None,
) -> tuple[Array, Metrics]:
    """``-sum_t w_t [ min(r_t A, clip(r_t, 1 - low, 1 + high) A) - beta KL_t ]`` with ``r = exp(logp - old_logp)``.

    DeepSeekMath (arXiv:2402.03300), equation 3; the weights w of `policy.token_weights`.

    Args:
      logp: [..., C] under the policy; the only argument with a gradient.
      old_logp: [..., C] under the policy at the time of the rollout; None where each rollout serves one update, and
        the two are the same (ratio 1).
      ref_logp: [..., C] under the reference; may be None when beta is 0.
      advantages: [...], one for each sequence.
      mask: [..., C], true at real completion tokens.
      cfg: the constants of the loss.
      weights: [..., C] token weights of the full batch, when these sequences are a part of it; by default these
        sequences are the full batch.

    Returns:
      (loss [], sums): the metrics are sums over tokens, and add up over micro-batches; `mean_metrics` finishes them.
    """
    chex.assert_equal_shape([logp, mask])
    chex.assert_shape(advantages, logp.shape[:-1])
    if weights is None:
        weights = policy.token_weights(mask, cfg.reduction, max_length=cfg.max_length)
    chex.assert_equal_shape([logp, weights])
    mask = mask.astype(bool)
    logp = jnp.where(mask, logp, 0.0)
    old_logp = jax.lax.stop_gradient(logp if old_logp is None else old_logp)
    advantages = jax.lax.stop_gradient(advantages)[..., None]
    ratio = policy.importance_ratio(logp, old_logp, mask)
    policy_term = -policy.clipped_surrogate(ratio, advantages, cfg.epsilon_low, cfg.epsilon_high)
    kl = _divergence(logp, ref_logp, ratio, mask, cfg)
    loss = jnp.sum(weights * (policy_term + cfg.beta * kl))
    sums = _token_sums(ratio, advantages, kl, mask, cfg)
    return loss, {"loss": loss, "policy_loss": jnp.sum(weights * policy_term), **sums}


def _divergence(logp: Array, ref_logp: Array | None, ratio: Array, mask: Array, cfg: GRPOConfig) -> Array:
    """Estimate per token of the divergence from the reference: [..., C], 0 outside the mask and without a reference."""
    if ref_logp is None:
        if cfg.beta != 0:
            raise UserError(f"grpo_loss: beta {cfg.beta} but no ref_logp: pass the reference's log-probs, or beta 0")
        return jnp.zeros_like(logp)
    chex.assert_equal_shape([logp, ref_logp])
    ref_logp = jnp.where(mask, jax.lax.stop_gradient(ref_logp), 0.0)
    return policy.k3_corrected(logp, ref_logp, ratio) if cfg.kl == "k3_corrected" else logprobs.k3(logp, ref_logp)


def _token_sums(ratio: Array, advantages: Array, kl: Array, mask: Array, cfg: GRPOConfig) -> Metrics:
    clipped = policy.clipped_tokens(ratio, advantages, cfg.epsilon_low, cfg.epsilon_high)
    per_token = {
        "ratio": ratio,
        "clip_ratio/low_mean": clipped.low,
        "clip_ratio/high_mean": clipped.high,
        "clip_ratio/region_mean": clipped.low | clipped.high,
        "kl": kl,
    }
    sums = {name: token_sum(x, mask) for name, x in per_token.items()}
    return {"tokens": jnp.sum(mask.astype(jnp.float32)), **sums}


def token_sum(x: Array, mask: Array) -> Array:
    """Sum over real tokens of a metric, without a gradient.

    Args:
      x: [..., C], any numeric type.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [].
    """
    return masked_sum(jax.lax.stop_gradient(x), mask)


def mean_metrics(sums: Metrics) -> Metrics:
    """Turn sums over the tokens of all micro-batches into means over them.

    Args:
      sums: of `grpo_loss`, added up.  ``loss`` and ``policy_loss`` (the loss without its divergence) carry their
        weights already and stay, as does ``tokens``.

    Returns:
      The same names, float32 [] each.
    """
    tokens = jnp.maximum(sums["tokens"], 1.0)
    finished = ("loss", "policy_loss", "tokens")
    return {name: x if name in finished else x / tokens for name, x in sums.items()}
