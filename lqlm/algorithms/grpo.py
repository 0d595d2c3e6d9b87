"""Group relative policy optimization and its family as functions of arrays (DeepSeekMath, arXiv:2402.03300)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms import policy, selection
from lqlm.algorithms.sft import nll_loss
from lqlm.algorithms.step import Metrics, Objective
from lqlm.algorithms.surrogates import Surrogate, Term, TokenClip
from lqlm.errors import UserError
from lqlm.masked import masked_mean, masked_sum
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """The loss of GRPO and of its relatives: a surrogate, a reduction, a divergence and where it acts.

    DeepSeekMath is the default.  DAPO: ``epsilon_high=0.28, beta=0, reduction="token"``.  Dr. GRPO: ``beta=0,
    reduction="constant"`` with `lqlm.algorithms.advantages.centered_advantages`.  GSPO: ``SequenceClip()`` with
    epsilons of 3e-4 and 4e-4.  CISPO: ``Cispo()``, VESPO: ``Vespo()``, both with ``reduction="token"``.  RLOO:
    ``SummedClip()`` with ``kl="k1", kl_place="reward"`` and `lqlm.algorithms.advantages.leave_one_out_advantages`.
    """

    epsilon_low: float = 0.2  # of the surrogates that clip: the ratio is rewarded down to 1 - epsilon_low
    epsilon_high: float = 0.2  # and up to 1 + epsilon_high
    beta: float = 0.04  # weight of the divergence from the reference; 0 needs no reference
    reduction: policy.Reduction = "sequence"
    max_length: int | None = None  # tokens; for the reduction "constant" only
    kl: policy.Estimator = "k3"
    surrogate: Surrogate = TokenClip()
    kl_place: Literal["loss", "reward"] = "loss"  # in the reward, the caller has taken it off before the advantages
    top_entropy_quantile: float = 1.0  # share of the tokens, those of highest entropy, that teach
    off_policy_mask_threshold: float | None = None  # nats per token; see `selection.on_policy_sequences`
    entropy_coef: float = 0.0  # weight of the mean entropy, which is then maximised

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if not (0 < self.epsilon_low < 1 and self.epsilon_high > 0):
            raise UserError(
                f"GRPOConfig: epsilon_low {self.epsilon_low}, epsilon_high {self.epsilon_high}: "
                "take epsilon_low between 0 and 1 and epsilon_high above 0"
            )
        if self.beta < 0:
            raise UserError(f"GRPOConfig: beta {self.beta} rewards divergence: take 0 or more")
        for name, known in (("reduction", policy.REDUCTIONS), ("kl", policy.ESTIMATORS)):
            if getattr(self, name) not in known:
                raise UserError(f"GRPOConfig: unknown {name} {getattr(self, name)!r}: use one of {', '.join(known)}")
        if self.reduction == "constant" and not (self.max_length and self.max_length > 0):
            raise UserError(f"GRPOConfig: reduction 'constant' with max_length {self.max_length}: set it in tokens")
        if self.kl_place not in ("loss", "reward") or (self.kl_place == "reward" and self.kl == "k3_corrected"):
            raise UserError(
                f"GRPOConfig: kl_place {self.kl_place!r} with kl {self.kl!r}: use 'loss', or 'reward' with k1, k2 or k3"
            )
        if not 0 < self.top_entropy_quantile <= 1:
            raise UserError(f"GRPOConfig: top_entropy_quantile {self.top_entropy_quantile}: take a share above 0, to 1")

    @property
    def bounds(self) -> tuple[float, float]:
        """Both epsilons."""
        return self.epsilon_low, self.epsilon_high

    @property
    def needs_entropy(self) -> bool:
        """Whether the loss depends on the entropy."""
        return self.top_entropy_quantile < 1 or self.entropy_coef != 0


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
    # float32, weight of the likelihood of a demonstration, which then is the last completion of each group and has no
    # advantage; None: there is none.
    demonstration_B: Array | None = None


Score = Callable[[PyTree, PyTree, GRPOBatch, Any], tuple[Array, Array]]


def grpo_objective(score: Score, cfg: GRPOConfig, *, micro_batches: int = 1) -> Objective:
    """GRPO as `lqlm.algorithms.step.make_update` takes it, for batches of type `GRPOBatch`.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, entropy_BGC)`` of the completions of a batch, whose B is that
        of a micro-batch; the entropy needs a gradient where `GRPOConfig.entropy_coef` is not 0.
      cfg: the constants of the loss.
      micro_batches: of the update; only the reduction "micro_batch" depends on it.

    Returns:
      An `Objective`; its metrics are those of `mean_metrics`, ``entropy``, of surrogates that clip also
      ``clip_ratio/low_min`` and ``clip_ratio/high_max`` (over sequences), and with demonstrations ``sft_loss``.
    """

    def prepare(batch: GRPOBatch) -> _Prepared:
        mask, demonstration = _split(batch, batch.completion_mask_BGC)
        weights = policy.token_weights(mask, cfg.reduction, max_length=cfg.max_length, parts=micro_batches)
        place = jnp.eye(len(mask), dtype=jnp.float32)
        likelihood = None
        if batch.demonstration_B is not None:
            likelihood = policy.token_weights(demonstration, "sequence") * batch.demonstration_B[:, None, None]
        return _Prepared(batch, weights, policy.token_weights(mask, "token"), place, likelihood)

    def loss(adapters: PyTree, base: PyTree, part: _Prepared, key: Any) -> tuple[Array, Metrics]:
        batch = part.batch
        logp, entropy = score(adapters, base, batch, key)
        (logp, shown), (entropy, _) = _split(batch, logp), _split(batch, entropy)
        mask = _split(batch, batch.completion_mask_BGC)[0]
        old, ref = (None if x is None else _split(batch, x)[0] for x in (batch.old_logp_BGC, batch.ref_logp_BGC))
        arrays = (logp, old, ref, batch.advantages_BG, mask, cfg, part.weights)
        value, sums, shares = _evaluate(*arrays, entropy, jnp.sum(part.tokens))
        sums |= {"entropy": token_sum(entropy, mask)} | _rows(shares, mask, part.place)
        if part.likelihood is not None:
            sums["sft_loss"] = nll_loss(shown, part.likelihood)
            value += sums["sft_loss"]
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
    sums = {"policy_loss": jnp.sum(weights * policy_term), **_sums(term, kl, mask)}
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


SEQUENCES = "@sequences"  # ends the name of a sum over sequences; those of tokens have none
ROWS = "@rows"  # ends the name of values of each sequence
EXTREMES = {
    "clip_ratio/low_mean": ("clip_ratio/low_min", jnp.min),
    "clip_ratio/high_mean": ("clip_ratio/high_max", jnp.max),
}


def _sums(term: Term, kl: Array, mask: Array) -> Metrics:
    """Sums over tokens, or over sequences of what is the same for all tokens of one."""
    sums = {"tokens": jnp.sum(mask.astype(jnp.float32)), "sequences": jnp.float32(mask.size // mask.shape[-1])}
    for name, x in {"ratio": term.ratio, **term.shares, "kl": kl}.items():
        if x.shape == mask.shape:
            sums[name] = token_sum(x, mask)
        else:
            sums[name + SEQUENCES] = jnp.sum(jax.lax.stop_gradient(x).astype(jnp.float32))
    return sums


def _rows(shares: dict[str, Array], mask: Array, place: Array) -> Metrics:
    """Means of each sequence of the full batch, zero for those of other parts: what a minimum over parts needs."""
    rows = {
        name: masked_mean(jnp.broadcast_to(x, mask.shape), mask, -1) for name, x in shares.items() if name in EXTREMES
    }
    if rows:
        rows["real"] = jnp.any(mask, axis=-1).astype(jnp.float32)
    return {name + ROWS: jnp.einsum("bB,bG->BG", place, x) for name, x in rows.items()}


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
      sums: of `grpo_loss`, added up.  ``loss``, ``policy_loss`` (the loss without divergence and entropy) and
        ``sft_loss`` carry their weights already and stay, as do ``tokens`` and ``sequences``.

    Returns:
      The same names, float32 [] each; a mean over sequences where the surrogate has one value for each.
    """
    tokens, sequences = jnp.maximum(sums["tokens"], 1.0), jnp.maximum(sums["sequences"], 1.0)
    finished = ("loss", "policy_loss", "sft_loss", "tokens", "sequences")
    whole = {name: x for name, x in sums.items() if not name.endswith(ROWS)}
    means = {
        name.removesuffix(SEQUENCES): x if name in finished else x / (sequences if name.endswith(SEQUENCES) else tokens)
        for name, x in whole.items()
    }
    return means | _extremes(sums)


def _extremes(sums: Metrics) -> Metrics:
    """Least and greatest share of a sequence, over those that have tokens; 0 where none has."""
    found = {}
    for name, (extreme, reduce) in EXTREMES.items():
        if name + ROWS in sums:
            real, start = sums["real" + ROWS] > 0, 1.0 if reduce is jnp.min else 0.0
            value = reduce(jnp.where(real, sums[name + ROWS], start))
            found[extreme] = jnp.where(jnp.any(real), value, 0.0)
    return found
