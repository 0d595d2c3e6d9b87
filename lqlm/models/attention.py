"""Attention with a backward pass of its own: it keeps queries, keys and values, never a number for each pair of them.

The softmax of the backward pass is computed again from the scores, as in FlashAttention (Dao et al. 2022,
arXiv:2205.14135); here whole rows of it are in memory at once, one layer's at a time.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lqlm.types import Array

# Low enough that exp gives exactly 0, and finite, so that a row without any key yields no NaN.
MASKED = -1e30


class Seen(NamedTuple):
    """Keys and values that queries may see.

    Attributes:
        k: of all G samples together [B, S, K, H], or of each one its own [B, G, S, K, H].
        v: of the same shape.
        mask: true where a query may see a key, broadcastable to [B, G, T, S].
    """

    k: Array
    v: Array
    mask: Array


def attention(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, mask_BTS: Array) -> Array:
    """Scaled dot-product attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        q_BTNH: queries; N is a multiple of K, and query head n reads key head ``n // (N / K)``.
        k_BSKH: keys.
        v_BSKH: values.
        mask_BTS: true where query t may see key s.

    Returns:
        ``[B, T, N, H]``.  A query that may see nothing gets a finite value that the caller masks.
    """
    return _attend(q_BTNH[:, None], (Seen(k_BSKH, v_BSKH, mask_BTS[:, None]),))[:, 0]


def prefix_attention(
    q_BGTNH: Array,
    prefix_k_BPKH: Array,
    prefix_v_BPKH: Array,
    prefix_mask: Array,
    own_k_BGSKH: Array,
    own_v_BGSKH: Array,
    own_mask: Array,
) -> Array:
    """Attention of G samples to one shared prefix and, each, to its own tokens: one softmax over both.

    Equal to :func:`attention` on the prefix repeated G times, at 1/G of its keys (the idea: arXiv:2506.05433).

    Args:
        q_BGTNH: queries of each sample.
        prefix_k_BPKH: keys of the prefix, once per prompt.
        prefix_v_BPKH: values of the prefix.
        prefix_mask: true at keys that may be seen, broadcastable to ``[B, G, T, P]``.
        own_k_BGSKH: keys of each sample.
        own_v_BGSKH: values of each sample.
        own_mask: broadcastable to ``[B, G, T, S]``.

    Returns:
        ``[B, G, T, N, H]``.
    """
    prefix = Seen(prefix_k_BPKH, prefix_v_BPKH, prefix_mask)
    return _attend(q_BGTNH, (prefix, Seen(own_k_BGSKH, own_v_BGSKH, own_mask)))


def _attend(q_BGTNH: Array, parts: tuple[Seen, ...]) -> Array:
    """One softmax over the keys of all parts."""
    shared = parts[0].k.shape[-2]
    q = q_BGTNH.reshape(*q_BGTNH.shape[:3], shared, q_BGTNH.shape[3] // shared, q_BGTNH.shape[4])
    return _mixed(q, parts).reshape(q_BGTNH.shape)


@jax.custom_vjp
def _mixed(q_BGTKRH: Array, parts: tuple[Seen, ...]) -> Array:
    """R queries read one key head; ``[B, G, T, K, R, H]``."""
    return _forward(q_BGTKRH, parts)[0]


def _forward(q: Array, parts: tuple[Seen, ...]) -> tuple[Array, tuple[Array, tuple[Seen, ...], Array, Array]]:
    scores = [_scores(q, part) for part in parts]
    tops = [_open(jnp.max(s, axis=-1, keepdims=True, initial=MASKED), q, part) for s, part in zip(scores, parts)]
    top = functools.reduce(jnp.maximum, tops)
    weights = [jnp.exp(s - _fold(top, part)) for s, part in zip(scores, parts)]
    total = _sum([_open(jnp.sum(w, axis=-1, keepdims=True), q, part) for w, part in zip(weights, parts)])
    mixed = [_dot(w.astype(part.v.dtype), _heads_first(part.v), -1, -2) for w, part in zip(weights, parts)]
    y = _sum([_open(m, q, part) for m, part in zip(mixed, parts)]) / total
    return y.astype(parts[-1].v.dtype), (q, parts, top, total)


def _backward(kept: tuple[Array, tuple[Seen, ...], Array, Array], dy: Array) -> tuple[Array, tuple[Seen, ...]]:
    """With scores s, weights w = exp(s - top), and y = w v / total.

    ``dv = w^T (dy / total)``, ``dw = (dy / total) v^T``, ``ds = w (dw - sum(w dw) / total)``.
    """
    q, parts, top, total = kept
    dy = (dy.astype(jnp.float32) / total).astype(dy.dtype)
    weights = [jnp.exp(_scores(q, part) - _fold(top, part)) for part in parts]
    dv = [_to_keys(w.astype(dy.dtype), dy, part.v, part) for w, part in zip(weights, parts)]
    # First the values' gradients: what is made of the weights for them is gone before the slopes are there.
    weights, dv = jax.lax.optimization_barrier((weights, dv))
    slopes = [_dot(_fold(dy, part), _heads_first(part.v), -1, -1) for part in parts]
    # As a product of matrices: XLA's CPU compiler takes ten times as long for a sum of products where B is 1.
    sums = [jnp.einsum("...s,...s->...", w, d)[..., None] for w, d in zip(weights, slopes)]
    mean = _sum([_open(m, q, part) for m, part in zip(sums, parts)]) / total
    scores = [
        _where_seen(w * (d - _fold(mean, part)) * q.shape[-1] ** -0.5, 0.0, q, part).astype(q.dtype)
        for part, w, d in zip(parts, weights, slopes)
    ]
    dq = _sum([_open(_dot(s, _heads_first(part.k), -1, -2), q, part) for s, part in zip(scores, parts)])
    dk = [_to_keys(s, q, part.k, part) for s, part in zip(scores, parts)]
    return dq.astype(q.dtype), tuple(Seen(k, v, None) for k, v in zip(dk, dv))  # type: ignore[arg-type]


_mixed.defvjp(_forward, _backward)


def _scores(q: Array, part: Seen) -> Array:
    """float32 [..., rows, S]."""
    scores = _dot(_fold(q, part), _heads_first(part.k), -1, -1) * q.shape[-1] ** -0.5
    return _where_seen(scores, MASKED, q, part)


def _where_seen(scores: Array, other: float, q: Array, part: Seen) -> Array:
    batch, group, time, shared, heads = q.shape[:5]
    mask = part.mask[:, :, :, None]
    if part.k.ndim == 4:
        mask, axes = mask[:, None], (batch, shared, group, time, heads, -1)
    else:
        mask, axes = mask[:, :, None], (batch, group, shared, time, heads, -1)
    return jnp.where(mask, scores.reshape(*axes[:5], scores.shape[-1]), other).reshape(scores.shape)


def _fold(x_BGTKRH: Array, part: Seen) -> Array:
    """The rows of a part's products: [B, K, G T R, H] where keys are shared, else [B, G, K, T R, H]."""
    batch, group, _, shared, _, width = x_BGTKRH.shape
    if part.k.ndim == 4:
        return x_BGTKRH.transpose(0, 3, 1, 2, 4, 5).reshape(batch, shared, -1, width)
    return x_BGTKRH.transpose(0, 1, 3, 2, 4, 5).reshape(batch, group, shared, -1, width)


def _open(rows: Array, q_BGTKRH: Array, part: Seen) -> Array:
    """The inverse of :func:`_fold`, for rows of any width."""
    batch, group, time, shared, heads, _ = q_BGTKRH.shape
    if part.k.ndim == 4:
        return rows.reshape(batch, shared, group, time, heads, rows.shape[-1]).transpose(0, 2, 3, 1, 4, 5)
    return rows.reshape(batch, group, shared, time, heads, rows.shape[-1]).transpose(0, 1, 3, 2, 4, 5)


def _to_keys(scores: Array, rows: Array, like: Array, part: Seen) -> Array:
    """``scores^T rows`` as the transpose of ``rows^T scores``: rows are narrow, and no scores are transposed."""
    found = _dot(_fold(rows, part), scores, -2, -2)
    return _heads_first(jnp.swapaxes(found, -1, -2)).astype(like.dtype)


def _heads_first(keys: Array) -> Array:
    """[..., S, K, H] and [..., K, S, H]."""
    return jnp.swapaxes(keys, -3, -2)


def _dot(a: Array, b: Array, left: int, right: int) -> Array:
    """Products of matrices in float32, summed over one axis of each; leading axes are those of a batch."""
    batch = tuple(range(a.ndim - 2))
    contracted = ((a.ndim + left,), (b.ndim + right,))
    return jax.lax.dot_general(a, b, (contracted, (batch, batch)), preferred_element_type=jnp.float32)


def _sum(arrays: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, arrays)
