"""Groups of completions that share a prompt: scored together, and decoded token by token.

A prompt is computed once whatever the number of its completions, forward and backward, and its keys and values are
stored once.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.layout import lookup
from lqlm.models.attention import attention, prefix_attention
from lqlm.models.bits import as_bits
from lqlm.models.block import Attend, run_layers
from lqlm.models.config import ModelConfig
from lqlm.models.kv_cache import (
    KV,
    CacheFormat,
    OwnCache,
    layer_of,
    read,
    storage_type,
    store,
    type_of,
    write,
    zeros,
)
from lqlm.models.layers import norm
from lqlm.models.masks import positions_of, visible
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, hidden_and_keys
from lqlm.models.virtual import embed, extended, prefix_caches, prefix_length, prompt_length, with_prefix
from lqlm.quant.mixed import MixedStack
from lqlm.types import Array, Key, PyTree


@flax.struct.dataclass
class PrefixCache:
    """Keys and values of the prompts, once per prompt whatever the group's size, in any format of a cache."""

    k_LBPKH: KV
    v_LBPKH: KV
    mask_BP: Array

    @property
    def length_B(self) -> Array:
        """Real tokens of each prompt."""
        return jnp.sum(self.mask_BP, axis=-1, dtype=jnp.int32)


def prefill(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BP: Array,
    mask_BP: Array,
    cfg: ModelConfig,
    *,
    cache: CacheFormat = "model",
) -> tuple[Array, PrefixCache]:
    """One pass over left-padded prompts: hidden state of the last token ``[B, D]`` and the cache of keys and values.

    Virtual tokens of prompt or prefix tuning are part of the cache: decoding needs to know nothing of them.  The
    prompts see each other's keys and values as they were computed; the format is what decoding reads.
    """
    base, adapters = bind(base, adapters)
    hidden, (k, v) = hidden_and_keys(_with_bits(base), adapters, tokens_BP, mask_BP, cfg)
    virtual, number = prompt_length(adapters) + prefix_length(adapters), storage_type(cache, k.dtype)
    return hidden[:, -1], PrefixCache(store(k, number), store(v, number), extended(mask_BP, virtual))


def empty_own(prefix: PrefixCache, group: int, length: int, cfg: ModelConfig) -> OwnCache:
    """Room for the own tokens of G samples of each prompt, in the prefix's format.

    Args:
        prefix: of the prompts.
        group: G.
        length: S, tokens that will be given to :func:`decode_step`; at least one place is made.
        cfg: the model's shape.
    """
    shape = (cfg.layers, len(prefix.mask_BP), group, max(length, 1), cfg.kv_heads, cfg.head_dim)
    return OwnCache(zeros(shape, type_of(prefix.k_LBPKH)), zeros(shape, type_of(prefix.v_LBPKH)))


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
    # Nothing is predicted from the last completion token.
    own, own_mask = completions_BGC[:, :, :-1], completion_mask_BGC[:, :, :-1]
    tokens = jnp.concatenate([prompts_BP, own.reshape(len(own), -1)], axis=1)
    seen = _group_seen(adapters, prompt_mask_BP, own_mask, cfg)
    attend = _attend_groups(seen, own.shape[1:], cfg)
    caches, x = prefix_caches(adapters), embed(base, adapters, tokens)
    x, _, _ = run_layers(base, adapters, x, seen.pos, attend, cfg, caches=caches, key=dropout_key, remat=remat)
    x_prompt, x_own = _split(x, *own.shape[1:])
    last = jnp.broadcast_to(x_prompt[:, None, -1:], (*own.shape[:2], 1, x.shape[-1]))
    return norm(jnp.concatenate([last, x_own], axis=2), base, "norm", cfg.norm_eps)


class _GroupSeen(NamedTuple):
    """Positions of a row, a prompt and then its G samples' own tokens, and what they see."""

    pos: Array
    prompt_to_prompt: Array
    own_to_prompt: Array
    own_to_own: Array


def _group_seen(adapters: PyTree | None, prompt_mask_BP: Array, own_mask_BGS: Array, cfg: ModelConfig) -> _GroupSeen:
    group, own = own_mask_BGS.shape[1:]
    keys = prefix_length(adapters)
    keys_mask = extended(prompt_mask_BP, prompt_length(adapters) + keys)
    keys_pos = positions_of(keys_mask)
    rows_pos = keys_pos[:, keys:]
    own_pos = jnp.sum(keys_mask, axis=-1, dtype=jnp.int32)[:, None] + jnp.arange(own, dtype=jnp.int32)[None]
    return _GroupSeen(
        jnp.concatenate([rows_pos, jnp.tile(own_pos, (1, group))], axis=1),
        visible(rows_pos[:, :, None], keys_pos[:, None, :], cfg) & keys_mask[:, None, :],
        visible(own_pos[:, :, None], keys_pos[:, None, :], cfg) & keys_mask[:, None, :],
        own_mask_BGS[:, :, None] & visible(own_pos[:, None, :, None], own_pos[:, None, None, :], cfg),
    )


def _split(x: Array, group: int, own: int) -> tuple[Array, Array]:
    """A row's prompt ``[B, P, ...]`` and its samples' own tokens ``[B, G, S, ...]``."""
    at = x.shape[1] - group * own
    return x[:, :at], x[:, at:].reshape(len(x), group, own, *x.shape[2:])


def _attend_groups(seen: _GroupSeen, sizes: tuple[int, ...], cfg: ModelConfig) -> Attend:
    split = functools.partial(_split, group=sizes[0], own=sizes[1])

    def attend(q: Array, k: Array, v: Array, cache: Any, state: None) -> tuple[Array, None, None]:
        (qp, qc), (kp, kc), (vp, vc) = split(q), split(k), split(v)
        kp, vp = with_prefix(kp, vp, cache, cfg)
        prompt = attention(qp, kp, vp, seen.prompt_to_prompt)
        own = prefix_attention(qc, kp, vp, seen.own_to_prompt[:, None], kc, vc, seen.own_to_own)
        return jnp.concatenate([prompt, own.reshape(len(q), -1, *q.shape[2:])], axis=1), None, None

    return attend


def decode_step(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BG: Array,
    step: Array,
    prefix: PrefixCache,
    own: tuple[KV, KV],
    cfg: ModelConfig,
) -> tuple[Array, OwnCache]:
    """One token of every sample: hidden states ``[B, G, D]`` and the samples' caches with the token's entry added.

    Args:
        base: weights.
        adapters: or None.
        tokens_BG: the sample's token number ``step``.
        step: int32, counted from 0: a scalar, or ``[B]`` or ``[B, G]`` where samples are not at the same one.
        prefix: the prompts' keys and values.
        own: the samples' keys and values, as from :func:`empty_own`, filled below ``step``.
        cfg: the model's shape.
    """
    base, adapters = bind(base, adapters)
    step = jnp.asarray(step)
    step_BG = step.reshape(step.shape + (1,) * (2 - step.ndim))  # either axis may be 1
    pos_BG = prefix.length_B[:, None] + step_BG
    attend = _attend_one(step if step.ndim == 0 else step_BG, _one_seen(pos_BG, step_BG, prefix, own, cfg))
    caches = (jnp.arange(cfg.layers, dtype=jnp.int32), prefix.k_LBPKH, prefix.v_LBPKH)
    x, pos = lookup(base["embed"], tokens_BG), jnp.broadcast_to(pos_BG, tokens_BG.shape)
    x, _, state = run_layers(_with_bits(base), adapters, x, pos, attend, cfg, caches=caches, state=OwnCache(*own))
    return norm(x, base, "norm", cfg.norm_eps), state


def _with_bits(base: PyTree) -> PyTree:
    """The base with its layers ready to be scanned, where nothing is differentiated; formats that differ stay."""
    if isinstance(base["layers"], tuple):
        return base
    layers = {name: w if isinstance(w, MixedStack) else as_bits(w) for name, w in base["layers"].items()}
    return {**base, "layers": layers}


def _one_seen(
    pos_BG: Array, step_BG: Array, prefix: PrefixCache, own: tuple[KV, KV], cfg: ModelConfig
) -> tuple[Array, Array]:
    """What a new token sees of its prompt and of its sample's tokens."""
    prefix_pos = positions_of(prefix.mask_BP)
    to_prefix = visible(pos_BG[:, :, None], prefix_pos[:, None, :], cfg) & prefix.mask_BP[:, None, :]
    places = jnp.arange(jax.tree.leaves(own)[0].shape[3], dtype=jnp.int32)
    return to_prefix[:, :, None], visible(step_BG[:, :, None], places[None, None], cfg)[:, :, None]


def _attend_one(step: Array, seen: tuple[Array, Array]) -> Attend:
    def attend(q: Array, k: Array, v: Array, cache: Any, own: Any) -> tuple[Array, None, Any]:
        layer, *prompt = cache
        own = OwnCache(*(write(buffer, new, layer, step) for buffer, new in zip(own, (k, v))))
        prefix_k, prefix_v, own_k, own_v = (read(kv, q.dtype) for kv in (*prompt, *(layer_of(kv, layer) for kv in own)))
        mixed = prefix_attention(q[:, :, None], prefix_k, prefix_v, seen[0], own_k, own_v, seen[1])
        return mixed[:, :, 0], None, own

    return attend
