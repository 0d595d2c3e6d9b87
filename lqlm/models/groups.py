"""Groups of completions that share a prompt: scored together, and decoded token by token.

A prompt is computed once whatever the number of its completions, forward and backward, and its keys and values are
stored once.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.models.block import run_layers
from lqlm.models.config import ModelConfig
from lqlm.models.layers import attention, prefix_attention, rms_norm
from lqlm.models.masks import positions_of, visible
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, hidden_and_keys
from lqlm.models.virtual import embed, extended, prefix_caches, prefix_length, prompt_length, with_prefix
from lqlm.types import Array, Key, PyTree


@flax.struct.dataclass
class PrefixCache:
    """Keys and values of the prompts, once per prompt whatever the group's size."""

    k_LBPKH: Array
    v_LBPKH: Array
    mask_BP: Array

    @property
    def length_B(self) -> Array:
        """Real tokens of each prompt."""
        return jnp.sum(self.mask_BP, axis=-1, dtype=jnp.int32)


def prefill(
    base: PyTree, adapters: PyTree | None, tokens_BP: Array, mask_BP: Array, cfg: ModelConfig
) -> tuple[Array, PrefixCache]:
    """One pass over left-padded prompts: hidden state of the last token ``[B, D]`` and the cache of keys and values.

    Virtual tokens of prompt or prefix tuning are part of the cache: decoding needs to know nothing of them.
    """
    base, adapters = bind(base, adapters)
    hidden, (k, v) = hidden_and_keys(base, adapters, tokens_BP, mask_BP, cfg)
    virtual = prompt_length(adapters) + prefix_length(adapters)
    return hidden[:, -1], PrefixCache(k, v, extended(mask_BP, virtual))


def forward_groups(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    dropout_key: Key | None = None,
    remat: Remat = "none",
) -> Array:
    """Hidden states that predict each completion token, every prompt computed once for its G completions.

    Value and gradient equal those of the G rows ``prompt + completion``, at ``P + G C`` tokens, not ``G (P + C)``.

    Args:
        base: weights.
        adapters: or None.
        prompts_BP: left-padded.
        prompt_mask_BP: true at real tokens.
        completions_BGC: right-padded.
        completion_mask_BGC: true at real tokens.
        cfg: the model's shape.
        dropout_key: switches the adapters' dropout on.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.

    Returns:
        ``[B, G, C, D]``: entry c predicts completion token c (entry 0 is the prompt's last position).
    """
    base, adapters = bind(base, adapters)
    batch, group, length = completions_BGC.shape
    first, own = prompt_length(adapters), length - 1  # nothing is predicted from the last completion token
    tokens = jnp.concatenate([prompts_BP, completions_BGC[:, :, :own].reshape(batch, group * own)], axis=1)
    split_at = first + prompts_BP.shape[1]
    keys_mask = extended(prompt_mask_BP, first + prefix_length(adapters))
    prompt_pos = positions_of(keys_mask)
    own_pos = jnp.sum(keys_mask, axis=-1, dtype=jnp.int32)[:, None] + jnp.arange(own, dtype=jnp.int32)[None]
    rows_pos = prompt_pos[:, prefix_length(adapters) :]
    pos = jnp.concatenate([rows_pos, jnp.tile(own_pos, (1, group))], axis=1)
    own_mask = completion_mask_BGC[:, :, None, :own] & visible(
        own_pos[:, None, :, None], own_pos[:, None, None, :], cfg
    )
    prefix_seen = visible(own_pos[:, :, None], prompt_pos[:, None, :], cfg) & keys_mask[:, None, :]
    prompt_seen = visible(rows_pos[:, :, None], prompt_pos[:, None, :], cfg) & keys_mask[:, None, :]

    def split(x: Array) -> tuple[Array, Array]:
        return x[:, :split_at], x[:, split_at:].reshape(batch, group, own, *x.shape[2:])

    def attend(q: Array, k: Array, v: Array, cache: Any, state: None) -> tuple[Array, None, None]:
        (qp, qc), (kp, kc), (vp, vc) = split(q), split(k), split(v)
        kp, vp = with_prefix(kp, vp, cache, cfg)
        from_prompt = attention(qp, kp, vp, prompt_seen)
        from_own = prefix_attention(qc, kp, vp, prefix_seen[:, None], kc, vc, own_mask)
        return jnp.concatenate([from_prompt, from_own.reshape(batch, group * own, *q.shape[2:])], axis=1), None, None

    caches, x = prefix_caches(adapters), embed(base, adapters, tokens)
    x, _, _ = run_layers(base, adapters, x, pos, attend, cfg, caches=caches, key=dropout_key, remat=remat)
    x_prompt, x_own = split(x)
    last = jnp.broadcast_to(x_prompt[:, None, -1:], (batch, group, 1, x.shape[-1]))
    return rms_norm(jnp.concatenate([last, x_own], axis=2), base["norm"], cfg.norm_eps)


def decode_step(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BG: Array,
    step: Array,
    prefix: PrefixCache,
    own: tuple[Array, Array],
    cfg: ModelConfig,
) -> tuple[Array, tuple[Array, Array]]:
    """One token of every sample: hidden states ``[B, G, D]`` and the samples' caches with the token's entry added.

    Args:
        base: weights.
        adapters: or None.
        tokens_BG: the sample's token number ``step``.
        step: int32 scalar, counted from 0.
        prefix: the prompts' keys and values.
        own: the samples' keys and values, each ``[L, B, G, S, K, H]``, filled below ``step``.
        cfg: the model's shape.
    """
    base, adapters = bind(base, adapters)
    pos = jnp.broadcast_to(prefix.length_B[:, None] + step, tokens_BG.shape)
    prefix_pos = positions_of(prefix.mask_BP)
    prefix_seen = visible(pos[:, :1, None], prefix_pos[:, None, :], cfg) & prefix.mask_BP[:, None, :]
    own_seen = visible(step, jnp.arange(own[0].shape[3], dtype=jnp.int32), cfg)

    def attend(q: Array, k: Array, v: Array, cache: Any, own: Any) -> tuple[Array, None, Any]:
        layer, prefix_k, prefix_v = cache
        own = tuple(_store(buffer, new, layer, step) for buffer, new in zip(own, (k, v)))
        own_k, own_v = (jax.lax.dynamic_index_in_dim(buffer, layer, keepdims=False) for buffer in own)
        mixed = prefix_attention(
            q[:, :, None], prefix_k, prefix_v, prefix_seen[:, :, None], own_k, own_v, own_seen[None, None, None]
        )
        return mixed[:, :, 0], None, own

    caches = (jnp.arange(cfg.layers, dtype=jnp.int32), prefix.k_LBPKH, prefix.v_LBPKH)
    x, _, own = run_layers(base, adapters, base["embed"][tokens_BG], pos, attend, cfg, caches=caches, state=own)
    return rms_norm(x, base["norm"], cfg.norm_eps), own


def _store(buffer: Array, new_BGKH: Array, layer: Array, step: Array) -> Array:
    zero = jnp.zeros((), jnp.int32)
    update = new_BGKH[None, :, :, None].astype(buffer.dtype)
    return jax.lax.dynamic_update_slice(buffer, update, (layer, zero, zero, step, zero, zero))
