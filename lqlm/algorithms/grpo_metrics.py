"""Metrics of GRPO: sums over tokens and sequences that add up over micro-batches, and the means made of them."""

import jax
import jax.numpy as jnp

from lqlm.algorithms.step import Metrics
from lqlm.algorithms.surrogate_terms import Term
from lqlm.masked import masked_mean, masked_sum
from lqlm.types import Array

SEQUENCES = "@sequences"  # ends the name of a sum over sequences; those of tokens have none
ROWS = "@rows"  # ends the name of values of each sequence
EXTREMES = {
    "clip_ratio/low_mean": ("clip_ratio/low_min", jnp.min),
    "clip_ratio/high_mean": ("clip_ratio/high_max", jnp.max),
}


def term_sums(term: Term, kl: Array, mask: Array) -> Metrics:
    """Sums over tokens, or over sequences of what is the same for all tokens of one.

    Args:
      term: of the surrogate.
      kl: [..., C] estimate of the divergence.
      mask: [..., C], true at real tokens.

    Returns:
      float32 [] each, without a gradient; the names of sums over sequences end in `SEQUENCES`.
    """
    sums = {"tokens": jnp.sum(mask.astype(jnp.float32)), "sequences": jnp.float32(mask.size // mask.shape[-1])}
    for name, x in {"ratio": term.ratio, **term.shares, "kl": kl}.items():
        if x.shape == mask.shape:
            sums[name] = token_sum(x, mask)
        else:
            sums[name + SEQUENCES] = jnp.sum(jax.lax.stop_gradient(x).astype(jnp.float32))
    return sums


def row_means(shares: dict[str, Array], mask: Array, place: Array) -> Metrics:
    """Means of each sequence of the full batch, zero for those of other parts: what a minimum over parts needs.

    Args:
      shares: of the surrogate, [b, G, C] or [b, G, 1] each, of the b rows of a part.
      mask: [b, G, C], true at real tokens.
      place: [b, B], the rows' places in the batch.

    Returns:
      float32 [B, G] each, under names that end in `ROWS`: those of `EXTREMES`, and ``real``, 1 where there are tokens.
    """
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
        the losses of demonstrations carry their weights already and stay, as do ``tokens`` and ``sequences``.

    Returns:
      The same names, float32 [] each; a mean over sequences where the surrogate has one value for each.
    """
    tokens, sequences = jnp.maximum(sums["tokens"], 1.0), jnp.maximum(sums["sequences"], 1.0)
    finished = ("loss", "policy_loss", "sft_loss", "off_policy_loss", "tokens", "sequences")
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
