"""A decoder-only transformer as functions of ``(base, adapters, tokens)``: Llama, Qwen2, Qwen3, Mistral.

One block, scanned over stacked layers; what differs between training, prefill and decoding is only how queries meet
keys, so each entry point passes its own ``attend``.  The base is always an argument: quantized weights are dequantized
inside the scan, one layer at a time.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.adapters.lora import apply_lora
from lqlm.models.config import ModelConfig
from lqlm.models.layers import attention, prefix_attention, rms_norm, rope_tables, rotate
from lqlm.models.remat import remat_scan
from lqlm.quant.matmul import matmul
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array, Key, PyTree

# attend(q, k, v, cache of the layer, state) -> (mixed, output of the layer, state)
Attend = Callable[[Array, Array, Array, Any, Any], tuple[Array, Any, Any]]


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


def positions_of(mask_BT: Array) -> Array:
    """Position of each token counted from the row's first real one; padding gets 0."""
    return jnp.maximum(jnp.cumsum(mask_BT, axis=-1, dtype=jnp.int32) - 1, 0)


def visible(q_pos: Array, k_pos: Array, cfg: ModelConfig) -> Array:
    """Causality, and the sliding window where the config has one: true where a query may see a key."""
    ahead = q_pos - k_pos
    seen = ahead >= 0
    return seen if cfg.sliding_window is None else seen & (ahead < cfg.sliding_window)


def forward(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BT: Array,
    mask_BT: Array,
    cfg: ModelConfig,
    *,
    dropout_key: Key | None = None,
    remat: bool = False,
) -> Array:
    """Hidden states after the final norm; :func:`logits` turns them into logits.

    Args:
        base: weights, see :mod:`lqlm.models.convert`; linear layers dense or quantized.
        adapters: as from :func:`lqlm.adapters.lora.init_lora`; None is the base itself, the reference policy.
        tokens_BT: int32.
        mask_BT: true at real tokens; padding may stand on the left or on the right.
        cfg: the model's shape.
        dropout_key: switches the adapters' dropout on.
        remat: recompute each layer in the backward pass instead of keeping its activations.

    Returns:
        ``[B, T, D]``; rows at padding are finite and mean nothing.
    """
    hidden, _ = _forward(base, adapters, tokens_BT, mask_BT, cfg, dropout_key, remat, keep=False)
    return hidden


def prefill(
    base: PyTree, adapters: PyTree | None, tokens_BP: Array, mask_BP: Array, cfg: ModelConfig
) -> tuple[Array, PrefixCache]:
    """One pass over left-padded prompts: hidden state of the last token ``[B, D]`` and the cache of keys and values."""
    hidden, (k, v) = _forward(base, adapters, tokens_BP, mask_BP, cfg, None, False, keep=True)
    return hidden[:, -1], PrefixCache(k, v, mask_BP)


def _forward(
    base: PyTree,
    adapters: PyTree | None,
    tokens: Array,
    mask: Array,
    cfg: ModelConfig,
    key: Key | None,
    remat: bool,
    keep: bool,
) -> tuple[Array, Any]:
    pos = positions_of(mask)
    seen = visible(pos[:, :, None], pos[:, None, :], cfg) & mask[:, None, :]

    def attend(q: Array, k: Array, v: Array, cache: None, state: None) -> tuple[Array, Any, None]:
        return attention(q, k, v, seen), (k, v) if keep else None, None

    x, kv, _ = run_layers(base, adapters, base["embed"][tokens], pos, attend, cfg, key=key, remat=remat)
    return rms_norm(x, base["norm"], cfg.norm_eps), kv


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
    remat: bool = False,
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
        remat: recompute each layer in the backward pass.

    Returns:
        ``[B, G, C, D]``: entry c predicts completion token c (entry 0 is the prompt's last position).
    """
    batch, group, length = completions_BGC.shape
    prefix, own = prompts_BP.shape[1], length - 1  # nothing is predicted from the last completion token
    tokens = jnp.concatenate([prompts_BP, completions_BGC[:, :, :own].reshape(batch, group * own)], axis=1)
    prompt_pos = positions_of(prompt_mask_BP)
    own_pos = jnp.sum(prompt_mask_BP, axis=-1, dtype=jnp.int32)[:, None] + jnp.arange(own, dtype=jnp.int32)[None]
    pos = jnp.concatenate([prompt_pos, jnp.tile(own_pos, (1, group))], axis=1)
    own_mask = completion_mask_BGC[:, :, None, :own] & visible(
        own_pos[:, None, :, None], own_pos[:, None, None, :], cfg
    )
    prefix_seen = visible(own_pos[:, :, None], prompt_pos[:, None, :], cfg) & prompt_mask_BP[:, None, :]
    prompt_seen = visible(prompt_pos[:, :, None], prompt_pos[:, None, :], cfg) & prompt_mask_BP[:, None, :]

    def split(x: Array) -> tuple[Array, Array]:
        return x[:, :prefix], x[:, prefix:].reshape(batch, group, own, *x.shape[2:])

    def attend(q: Array, k: Array, v: Array, cache: None, state: None) -> tuple[Array, None, None]:
        (qp, qc), (kp, kc), (vp, vc) = split(q), split(k), split(v)
        from_prompt = attention(qp, kp, vp, prompt_seen)
        from_own = prefix_attention(qc, kp, vp, prefix_seen[:, None], kc, vc, own_mask)
        return jnp.concatenate([from_prompt, from_own.reshape(batch, group * own, *q.shape[2:])], axis=1), None, None

    x, _, _ = run_layers(base, adapters, base["embed"][tokens], pos, attend, cfg, key=dropout_key, remat=remat)
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


def logits(base: PyTree, hidden: Array) -> Array:
    """Scores over the vocabulary, float32 ``[..., V]``; a model without ``head`` uses its embedding (tied)."""
    head = base["head"] if "head" in base else base["embed"].T
    return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


def run_layers(
    base: PyTree,
    adapters: PyTree | None,
    x: Array,
    positions: Array,
    attend: Attend,
    cfg: ModelConfig,
    *,
    caches: Any = None,
    state: Any = None,
    key: Key | None = None,
    remat: bool = False,
) -> tuple[Array, Any, Any]:
    """Scan the stacked layers: ``(x, outputs of attend stacked over layers, final state)``.

    Args:
        base: weights; only ``base["layers"]`` is read.
        adapters: or None.
        x: ``[B, T, D]``.
        positions: ``[B, T]``.
        attend: how queries meet keys.
        cfg: the model's shape.
        caches: a tree with a leading layer axis, one slice of which goes to each layer's ``attend``.
        state: carried through the layers by ``attend``.
        key: for dropout.
        remat: see :func:`forward`.
    """
    tables = rope_tables(positions, cfg)
    loras = {} if adapters is None else adapters["layers"]
    keys = None if key is None else jax.random.split(key, cfg.layers)

    def body(carry: tuple[Array, Any], slices: Any) -> tuple[tuple[Array, Any], Any]:
        x, state = carry
        layer, lora, cache, layer_key = slices
        x, out, state = block(x, layer, lora, tables, attend, cfg, cache, state, layer_key)
        return (x, state), out

    if remat and caches is None and state is None and any(isinstance(w, QTensor) for w in base["layers"].values()):
        return _rematerialized(body, x, base["layers"], loras, keys), None, None
    step = jax.checkpoint(body, prevent_cse=False) if remat else body
    (x, state), out = jax.lax.scan(step, (x, state), (base["layers"], loras, caches, keys))
    return x, out, state


def _rematerialized(body: Callable, x: Array, layers: PyTree, loras: PyTree, keys: Array | None) -> Array:
    """The scan of a 4-bit base with a backward pass that recomputes; ``body`` as in :func:`run_layers`."""
    quantized = {name: w for name, w in layers.items() if isinstance(w, QTensor)}
    others = {name: w for name, w in layers.items() if name not in quantized}  # norms and biases may be trained

    def one(x: Array, trained: PyTree, frozen: PyTree) -> Array:
        layer = {name: frozen[0].get(name, trained[0].get(name)) for name in sorted(layers)}
        (x, _), _ = body((x, None), (layer, trained[1], None, frozen[1]))
        return x

    return remat_scan(one, x, (others, loras), (quantized, keys))


def block(
    x: Array,
    layer: PyTree,
    loras: PyTree,
    tables: tuple[Array, Array],
    attend: Attend,
    cfg: ModelConfig,
    cache: Any,
    state: Any,
    key: Key | None,
) -> tuple[Array, Any, Any]:
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + down(silu(gate(norm(x))) * up(norm(x)))``."""
    h = rms_norm(x, layer["input_norm"], cfg.norm_eps)
    q = _heads(linear(h, layer, loras, "q_proj", key), layer.get("q_norm"), cfg)
    k = _heads(linear(h, layer, loras, "k_proj", key), layer.get("k_norm"), cfg)
    v = _heads(linear(h, layer, loras, "v_proj", key), None, cfg)
    mixed, out, state = attend(rotate(q, tables), rotate(k, tables), v, cache, state)
    x = x + linear(mixed.reshape(*x.shape[:-1], -1), layer, loras, "o_proj", key)
    h = rms_norm(x, layer["post_norm"], cfg.norm_eps)
    gated = jax.nn.silu(linear(h, layer, loras, "gate_proj", key)) * linear(h, layer, loras, "up_proj", key)
    return x + linear(gated, layer, loras, "down_proj", key), out, state


def _heads(x: Array, norm_H: Array | None, cfg: ModelConfig) -> Array:
    x = x.reshape(*x.shape[:-1], -1, cfg.head_dim)
    return x if norm_H is None else rms_norm(x, norm_H, cfg.norm_eps)


_BIASES = {"q_proj": "q_bias", "k_proj": "k_bias", "v_proj": "v_bias", "o_proj": "o_bias"}


def linear(x: Array, layer: PyTree, loras: PyTree, name: str, key: Key | None = None) -> Array:
    """``x @ w + bias + lora(x)`` for the layer's linear map ``name``."""
    y = matmul(x, layer[name])
    bias = layer.get(_BIASES.get(name, ""))
    if bias is not None:
        y = y + jnp.expand_dims(bias, range(y.ndim - 1)).astype(y.dtype)
    if name not in loras:
        return y
    # A key of its own for each linear map, or all would drop the same inputs.
    own_key = None if key is None else jax.random.fold_in(key, list(layer).index(name))
    return y + apply_lora(x, loras[name], own_key)
