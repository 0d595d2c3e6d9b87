"""Group relative policy optimization and its family as functions of arrays (DeepSeekMath, arXiv:2402.03300)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms import policy, selection
from lqlm.algorithms.grpo_config import GRPOConfig
from lqlm.algorithms.grpo_metrics import mean_metrics, row_means, term_sums, token_sum
from lqlm.algorithms.off_policy import shaped_loss
from lqlm.algorithms.sft import nll_loss
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.masked import masked_mean
from lqlm.types import Array, PyTree


@flax.struct.dataclass
class GRPOBatch:
    """Rollouts of B prompts with G completions each; prompts left-padded, completions right-padded."""

    prompts_BP: Array  # int32
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32
    completion_mask_BGC: Array  # bool, true up to and including the EOS
    advantages_BG: Array  # float32; or [B, G, C], one for each token
    old_logp_BGC: Array | None = None  # float32; None where each rollout serves one update
    ref_logp_BGC: Array | None = None  # float32, of the base without adapters; None where beta is 0
    # float32, of a demonstration, which then is the last completion of each group: the weight of its likelihood, or,
    # where it is learned from as LUFFY does, its advantage; None: there is none.
    demonstration_B: Array | None = None


Score = Callable[[PyTree, PyTree, GRPOBatch, Any], tuple[Array, Array]]


def grpo_objective(score: Score, cfg: GRPOConfig, *, micro_batches: int = 1, shaping: float | None = None) -> Objective:
    """GRPO as `lqlm.algorithms.step.make_update` takes it, for batches of type `GRPOBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, entropy_BGC)`` of the completions of a batch, whose B is that
        of a micro-batch; the entropy needs a gradient where `GRPOConfig.entropy_coef` is not 0.
      cfg: the constants of the loss.
      micro_batches: of the update; only the reduction "micro_batch" depends on it.
      shaping: gamma of `lqlm.algorithms.off_policy.shaped_loss`, with which demonstrations are learned from as members
        of their groups (LUFFY); None: their likelihood is added, weighted.

    Returns:
      An `Objective`; its metrics are those of `mean_metrics`, ``entropy``, of surrogates that clip also
      ``clip_ratio/low_min`` and ``clip_ratio/high_max`` (over sequences), and with demonstrations ``sft_loss`` or
      ``off_policy_loss``.
    """

    def prepare(batch: GRPOBatch) -> _Prepared:
        mask, demonstration = _split(batch, batch.completion_mask_BGC)
        members = mask if shaping is None else batch.completion_mask_BGC
        weights = policy.token_weights(members, cfg.reduction, max_length=cfg.max_length, parts=micro_batches)
        weights, shown = _split(batch, weights)
        place = jnp.eye(len(mask), dtype=jnp.float32)
        likelihood = None
        if batch.demonstration_B is not None:
            shown = policy.token_weights(demonstration, "sequence") if shaping is None else shown
            likelihood = shown * batch.demonstration_B[:, None, None]
        return _Prepared(batch, weights, policy.token_weights(mask, "token"), place, likelihood)

    def loss(adapters: PyTree, base: PyTree, part: _Prepared, key: Any) -> tuple[Array, Metrics]:
        batch = part.batch
        logp, entropy = score(adapters, base, batch, key)
        (logp, shown), (entropy, _) = _split(batch, logp), _split(batch, entropy)
        mask = _split(batch, batch.completion_mask_BGC)[0]
        old, ref = (None if x is None else _split(batch, x)[0] for x in (batch.old_logp_BGC, batch.ref_logp_BGC))
        arrays = (logp, old, ref, batch.advantages_BG, mask, cfg, part.weights)
        value, sums, shares = _evaluate(*arrays, entropy, jnp.sum(part.tokens))
        sums |= {"entropy": token_sum(entropy, mask)} | row_means(shares, mask, part.place)
        if part.likelihood is not None:
            name = "sft_loss" if shaping is None else "off_policy_loss"
            sums[name] = (
                nll_loss(shown, part.likelihood)
                if shaping is None
                else shaped_loss(shown, part.likelihood, gamma=shaping)
            )
            value += sums[name]
        return value, sums

    return Objective(loss, prepare, mean_metrics)


class _Prepared(NamedTuple):
    """A batch, and what depends on all of it: weights of the loss and of a mean over tokens, and each row's place."""

    batch: GRPOBatch
    weights: Array  # [B, G, C]
    tokens: Array  # [B, G, C]
    place: Array  # [B, B], the unit matrix
    likelihood: Array | None  # [B, 1, C], weights of demonstrations


def _split(batch: GRPOBatch, x: Array) -> tuple[Array, Array]:
    """Samples and demonstrations, of [B, G or G + 1, C]."""
    samples = batch.advantages_BG.shape[1]
    return x[:, :samples], x[:, samples:]


def grpo_loss(
    logp: Array,
    old_logp: Array | None,
    ref_logp: Array | None,
    advantages: Array,
    mask: Array,
    cfg: GRPOConfig,
    weights: Array | None = None,
    entropy: Array | None = None,
) -> tuple[Array, Metrics]:
    """``-sum_t w_t [ s_t - beta KL_t ] - c H``, by default with ``s_t = min(r_t A, clip(r_t, 1 - low, 1 + high) A)``.

    DeepSeekMath (arXiv:2402.03300), equation 3, with ``r = exp(logp - old_logp)``; the weights w of
    `policy.token_weights`, the surrogates s of `lqlm.algorithms.surrogates`.

    Args:
      logp: [..., C] under the policy; the only argument with a gradient, beside the entropy.
      old_logp: [..., C] under the policy at the time of the rollout; None where each rollout serves one update, and
        the two are the same (ratio 1).
      ref_logp: [..., C] under the reference; may be None when beta is 0 or acts in the reward.
      advantages: [...], one for each sequence, or [..., C], one for each token.
      mask: [..., C], true at real completion tokens.
      cfg: the constants of the loss.
      weights: [..., C] token weights of the full batch, when these sequences are a part of it; by default these
        sequences are the full batch.
      entropy: [..., C] of each token's distribution; needed where `GRPOConfig.needs_entropy`.

    Returns:
      (loss [], sums): the metrics are sums over tokens, and add up over micro-batches; `mean_metrics` finishes them.
    """
    return _evaluate(logp, old_logp, ref_logp, advantages, mask, cfg, weights, entropy, jnp.float32(1.0))[:2]


def _evaluate(
    logp: Array,
    old_logp: Array | None,
    ref_logp: Array | None,
    advantages: Array,
    mask: Array,
    cfg: GRPOConfig,
    weights: Array | None,
    entropy: Array | None,
    part: Array,
) -> tuple[Array, Metrics, dict[str, Array]]:
    """Loss, sums, and the surrogate's shares by token or sequence; `part` is these sequences' share of all tokens."""
    chex.assert_equal_shape([logp, mask])
    if advantages.shape != logp.shape:
        chex.assert_shape(advantages, logp.shape[:-1])
        advantages = advantages[..., None]
    if weights is None:
        weights = policy.token_weights(mask, cfg.reduction, max_length=cfg.max_length)
    chex.assert_equal_shape([logp, weights])
    mask = mask.astype(bool)
    logp = jnp.where(mask, logp, 0.0)
    old_logp = jax.lax.stop_gradient(logp if old_logp is None else old_logp)
    chex.assert_equal_shape([logp, old_logp])
    old_logp = jnp.where(mask, old_logp, 0.0)
    advantages = jax.lax.stop_gradient(advantages)
    if advantages.shape == mask.shape:
        advantages = jnp.where(mask, advantages, 0.0)
    term = cfg.surrogate(logp, old_logp, advantages, mask, cfg.bounds)
    teaching = _teaching(logp, old_logp, advantages, mask, entropy, cfg)
    policy_term = -term.objective if teaching is None else jnp.where(teaching, -term.objective, 0.0)
    kl = _divergence(logp, ref_logp, term.ratio, mask, cfg)
    in_loss = cfg.beta if cfg.kl_place == "loss" else 0.0
    loss = jnp.sum(weights * (policy_term + in_loss * kl))
    sums = {"policy_loss": jnp.sum(weights * policy_term), **term_sums(term, kl, mask)}
    if cfg.entropy_coef:
        loss -= cfg.entropy_coef * part * _mean_entropy(entropy, mask, cfg)
    return loss, {"loss": loss, **sums}, term.shares


def _teaching(
    logp: Array, old_logp: Array, advantages: Array, mask: Array, entropy: Array | None, cfg: GRPOConfig
) -> Array | None:
    """The tokens that the surrogate acts on; None: all."""
    kept = None
    if cfg.off_policy_mask_threshold is not None:
        kept = selection.on_policy_sequences(advantages, logp, old_logp, mask, cfg.off_policy_mask_threshold)
    if cfg.top_entropy_quantile < 1:
        high = _high_entropy(entropy, mask, cfg)
        kept = high if kept is None else kept & high
    return kept


def _high_entropy(entropy: Array | None, mask: Array, cfg: GRPOConfig) -> Array:
    if entropy is None:
        raise UserError("grpo_loss: top_entropy_quantile or entropy_coef is set but there is no entropy: pass it")
    return selection.high_entropy_tokens(jax.lax.stop_gradient(entropy), mask, cfg.top_entropy_quantile)


def _mean_entropy(entropy: Array | None, mask: Array, cfg: GRPOConfig) -> Array:
    """Over the tokens that teach."""
    high = _high_entropy(entropy, mask, cfg)
    return masked_mean(jnp.zeros_like(mask, jnp.float32) if entropy is None else entropy, high)


def _divergence(logp: Array, ref_logp: Array | None, ratio: Array, mask: Array, cfg: GRPOConfig) -> Array:
    """Estimate per token of the divergence from the reference: [..., C], 0 outside the mask and without a reference."""
    if ref_logp is None:
        if cfg.beta != 0 and cfg.kl_place == "loss":
            raise UserError(f"grpo_loss: beta {cfg.beta} but no ref_logp: pass the reference's log-probs, or beta 0")
        return jnp.zeros_like(logp)
    chex.assert_equal_shape([logp, ref_logp])
    ref_logp = jnp.where(mask, jax.lax.stop_gradient(ref_logp), 0.0)
    return policy.divergence(logp, ref_logp, ratio, cfg.kl)
