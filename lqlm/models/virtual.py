"""Virtual tokens: learned embeddings (prompt tuning) or learned keys and values (prefix tuning) before the real ones.

They take the first positions; every real token sees all of them, and its own position is counted after them.
"""

import jax.numpy as jnp

from lqlm.layout import lookup
from lqlm.models.config import ModelConfig
from lqlm.types import Array, PyTree


def embed(base: PyTree, adapters: PyTree | None, tokens_BT: Array) -> Array:
    """Embeddings ``[B, V + T, D]``, those of V prompt-tuning tokens first."""
    x = lookup(base["embed"], tokens_BT)
    if not adapters or "prompt" not in adapters:
        return x
    prompt = adapters["prompt"].astype(x.dtype)
    return jnp.concatenate([jnp.broadcast_to(prompt, (len(x), *prompt.shape)), x], axis=1)


def prompt_length(adapters: PyTree | None) -> int:
    """Number of prompt-tuning tokens, which are rows of the residual stream."""
    return adapters["prompt"].shape[0] if adapters and "prompt" in adapters else 0


def prefix_length(adapters: PyTree | None) -> int:
    """Number of prefix-tuning tokens, which are keys and values only."""
    return adapters["prefix"]["k"].shape[1] if adapters and "prefix" in adapters else 0


def extended(mask_BT: Array, count: int) -> Array:
    """The mask with ``count`` virtual tokens before the first position, even before padding."""
    return jnp.pad(mask_BT, ((0, 0), (count, 0)), constant_values=True) if count else mask_BT


def prefix_caches(adapters: PyTree | None) -> tuple[Array, Array] | None:
    """Keys and values ``[L, V, K * H]`` of prefix tuning, to be scanned over with the layers; None without it."""
    return (adapters["prefix"]["k"], adapters["prefix"]["v"]) if prefix_length(adapters) else None  # type: ignore[index]


def with_prefix(
    k_BSKH: Array, v_BSKH: Array, cache: tuple[Array, Array] | None, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Keys and values of a layer with those of its prefix before them; the prefix's keys are not rotated."""
    if cache is None:
        return k_BSKH, v_BSKH

    def put(rows: Array, prefix_VW: Array) -> Array:
        shaped = prefix_VW.astype(rows.dtype).reshape(-1, cfg.kv_heads, cfg.head_dim)
        return jnp.concatenate([jnp.broadcast_to(shaped, (len(rows), *shaped.shape)), rows], axis=1)

    return put(k_BSKH, cache[0]), put(v_BSKH, cache[1])
