"""Penalties on tokens that were there before: presence and frequency (OpenAI), repetition (CTRL, arXiv:1909.05858)."""

import flax.struct
import jax.numpy as jnp

from lqlm.types import Array


@flax.struct.dataclass
class Seen:
    """Which tokens each sample has seen; every array begins with B, so that a row can be replaced as a whole.

    Attributes:
        counts_BGV: int32, how often each token was generated.
        prompt_BV: bool, whether it is in the prompt; None where no penalty asks for it.
    """

    counts_BGV: Array
    prompt_BV: Array | None


def start(prompts_BP: Array, prompt_mask_BP: Array, group: int, vocab: int, *, with_prompt: bool) -> Seen:
    """Nothing generated yet."""
    batch = prompts_BP.shape[0]
    counts = jnp.zeros((batch, group, vocab), jnp.int32)
    if not with_prompt:
        return Seen(counts, None)
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return Seen(counts, jnp.zeros((batch, vocab), bool).at[rows, prompts_BP].max(prompt_mask_BP))


def add(seen: Seen, tokens_BG: Array, alive_BG: Array) -> Seen:
    """Count the tokens of the samples that are alive."""
    batch, group = tokens_BG.shape
    rows, samples = jnp.arange(batch, dtype=jnp.int32)[:, None], jnp.arange(group, dtype=jnp.int32)[None]
    counts = seen.counts_BGV.at[rows, samples, tokens_BG].add(alive_BG.astype(jnp.int32))
    return seen.replace(counts_BGV=counts)  # type: ignore[attr-defined, no-any-return]


def repeat_penalty(logits_BGV: Array, seen: Seen, penalty: float) -> Array:
    """Of tokens in the prompt or generated: ``z / penalty`` where z > 0 and ``z penalty`` elsewhere; 1 is none.

    CTRL, arXiv:1909.05858, in the form of transformers and vLLM (the paper divides negative logits too, which would
    make them likelier).
    """
    if penalty == 1.0:
        return logits_BGV
    before = seen.counts_BGV > 0
    if seen.prompt_BV is not None:
        before |= seen.prompt_BV[:, None]
    penalized = jnp.where(logits_BGV > 0, logits_BGV / penalty, logits_BGV * penalty)
    return jnp.where(before, penalized, logits_BGV)


def count_penalty(logits_BGV: Array, seen: Seen, presence: float, frequency: float) -> Array:
    """Of generated tokens: ``z - frequency n - presence [n > 0]`` with n the token's count, as OpenAI defines them."""
    if presence == 0.0 and frequency == 0.0:
        return logits_BGV
    counts = seen.counts_BGV
    return logits_BGV - frequency * counts.astype(jnp.float32) - presence * (counts > 0).astype(jnp.float32)
