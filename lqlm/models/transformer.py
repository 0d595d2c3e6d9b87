"""A decoder-only transformer as functions of ``(base, adapters, tokens)``: Llama, Qwen2, Qwen3, Mistral, OPT.

The base is always an argument, and so are the adapters: the reference policy is the same function with
``adapters=None``, and several adapters share one base.
"""

from typing import Any

import jax.numpy as jnp

from lqlm.models.attention import attention
from lqlm.models.block import run_layers
from lqlm.models.config import ModelConfig
from lqlm.models.layers import norm
from lqlm.models.masks import positions_of, rows_seen, segment_positions, visible
from lqlm.models.remat import Remat
from lqlm.models.virtual import embed, extended, prefix_caches, prefix_length, prompt_length, with_prefix
from lqlm.quant.matmul import matmul
from lqlm.types import Array, Key, PyTree


def bind(base: PyTree, adapters: PyTree | None) -> tuple[PyTree, PyTree | None]:
    """What to compute with: in full training, ``adapters`` holds the whole base under the key "full"."""
    return (adapters["full"], None) if adapters and "full" in adapters else (base, adapters)


def forward(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BT: Array,
    mask_BT: Array,
    cfg: ModelConfig,
    *,
    segments_BT: Array | None = None,
    dropout_key: Key | None = None,
    remat: Remat = "none",
) -> Array:
    """Hidden states after the final norm; :func:`logits` turns them into logits.

    Args:
        base: weights, see :mod:`lqlm.models.convert`; linear layers dense or quantized.
        adapters: as from :func:`lqlm.adapters.init.init_adapters`; None is the base itself, the reference policy.
        tokens_BT: int32.
        mask_BT: true at real tokens; padding may stand on the left or on the right.
        cfg: the model's shape.
        segments_BT: int32 numbers of the examples that are packed into each row, 0 at padding: a token sees its own
            example only, and positions start again with each.  None where a row is one example.
        dropout_key: switches the adapters' dropout on.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.

    Returns:
        ``[B, T, D]``; rows at padding are finite and mean nothing.
    """
    base, adapters = bind(base, adapters)
    hidden, _ = hidden_and_keys(
        base, adapters, tokens_BT, mask_BT, cfg, segments_BT=segments_BT, key=dropout_key, remat=remat, keep=False
    )
    return hidden[:, prompt_length(adapters) :]


def hidden_and_keys(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BT: Array,
    mask_BT: Array,
    cfg: ModelConfig,
    *,
    segments_BT: Array | None = None,
    key: Key | None = None,
    remat: Remat = "none",
    keep: bool = True,
) -> tuple[Array, Any]:
    """Hidden states ``[B, V + T, D]``, V prompt-tuning tokens among them, and the keys and values of all layers.

    The arguments are those of :func:`forward`, bound; ``keep`` says whether keys and values are wanted (else None).
    """
    rows, keys = prompt_length(adapters), prefix_length(adapters)  # virtual tokens: in the rows, and before them
    mask = extended(mask_BT, rows)
    if segments_BT is None:
        pos, segments = positions_of(mask), None
    else:
        segments = jnp.pad(segments_BT, ((0, 0), (rows, 0)), constant_values=-1)
        pos = segment_positions(segments) + jnp.where(segments > 0, rows, 0)
    seen = rows_seen(pos, mask, segments, cfg)
    if keys:
        pos = pos + keys
        before = visible(pos[:, :, None], jnp.arange(keys, dtype=jnp.int32)[None, None], cfg)
        seen = jnp.concatenate([before, seen], axis=-1)

    def attend(q: Array, k: Array, v: Array, cache: Any, state: None) -> tuple[Array, Any, None]:
        k, v = with_prefix(k, v, cache, cfg)
        return attention(q, k, v, seen), (k, v) if keep else None, None

    caches, x = prefix_caches(adapters), embed(base, adapters, tokens_BT)
    x, kv, _ = run_layers(base, adapters, x, pos, attend, cfg, caches=caches, key=key, remat=remat)
    return norm(x, base, "norm", cfg.norm_eps), kv


def logits(base: PyTree, hidden: Array) -> Array:
    """Scores over the vocabulary, float32 ``[..., V]``; a model without ``head`` uses its embedding (tied).

    With a head in bfloat16 operands are rounded to it in both passes, and sums are float32.
    """
    head = base["head"] if "head" in base else base["embed"].T
    return matmul(hidden.astype(jnp.float32), head)
