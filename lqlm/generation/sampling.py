"""Choosing the next token: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020, arXiv:1904.09751)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.types import Array, Key

NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How to sample.

    Attributes:
        max_new_tokens: length C of the completions.
        temperature: divides the logits; 0 is greedy.
        top_k: keep the k most probable tokens; 0, or more than the vocabulary, keeps all.
        top_p: keep the smallest set of most probable tokens whose probability reaches p; 1 keeps all.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"sampling.max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < math.inf:  # written so that NaN is refused too
            raise UserError(f"sampling.temperature is {self.temperature}; it must be 0 (greedy) or positive")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"sampling.top_k is {self.top_k} and top_p {self.top_p}; they need top_k >= 0 and 0 < top_p <= 1"
            )


def keep_top_k(logits: Array, k: int) -> Array:
    """Logits ``[..., V]`` with all but the k largest at minus infinity (ties with the k-th stay)."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    kth = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < kth, NEVER, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Logits ``[..., V]`` with all outside the nucleus at minus infinity; the most probable token always stays."""
    if p >= 1.0:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    last = jnp.sum(before < p, axis=-1, keepdims=True, dtype=jnp.int32) - 1
    threshold = jnp.take_along_axis(ordered, jnp.maximum(last, 0), axis=-1)
    return jnp.where(logits < threshold, NEVER, logits)


def sample(key: Key, logits: Array, cfg: SamplingConfig) -> tuple[Array, Array]:
    """Draw one token per row.

    Args:
        key: consumed.
        logits: float32 ``[..., V]``.
        cfg: temperature, top-k, top-p.

    Returns:
        Tokens int32 ``[...]`` and their log-probabilities under the temperature-divided softmax over the whole
        vocabulary: what the trainer recomputes, whatever top-k and top-p cut away.  Greedy decoding reports those of
        temperature 1.
    """
    scaled = logits if cfg.temperature == 0.0 else logits / cfg.temperature
    if cfg.temperature == 0.0:
        tokens = jnp.argmax(scaled, axis=-1).astype(jnp.int32)
    else:
        kept = keep_top_p(keep_top_k(scaled, cfg.top_k), cfg.top_p)
        tokens = jax.random.categorical(key, kept, axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
    return tokens, chosen - jax.nn.logsumexp(scaled, axis=-1)
