"""The pieces of a decoder layer, each a pure function: norms, rotary positions, attention with a shared prefix."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.models.config import ModelConfig
from lqlm.types import Array, PyTree

# Low enough that exp gives exactly 0, and finite, so that a row without any key yields no NaN.
MASKED = -1e30


def rms_norm(x: Array, scale_D: Array, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis (Zhang and Sennrich 2019), in float32 inside."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(scale_D, range(x.ndim - 1))
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def layer_norm(x: Array, scale_D: Array, bias_D: Array, eps: float) -> Array:
    """``(x - mean(x)) / sqrt(var(x) + eps) * scale + bias`` over the last axis (Ba et al. 2016), in float32 inside."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    scale, bias = (jnp.expand_dims(part, range(x.ndim - 1)).astype(jnp.float32) for part in (scale_D, bias_D))
    return (normed * scale + bias).astype(x.dtype)


def norm(x: Array, weights: PyTree, name: str, eps: float) -> Array:
    """The norm ``name`` of a tree of weights: a LayerNorm where it has a bias, else an RMSNorm."""
    bias = weights.get(f"{name}_bias")
    return rms_norm(x, weights[name], eps) if bias is None else layer_norm(x, weights[name], bias, eps)


def rope_frequencies(cfg: ModelConfig) -> np.ndarray:
    """Angular frequencies ``theta^(-2i/H)``, radians per position, float32 ``[H/2]``, with the config's scaling.

    ``llama3`` scaling (Llama 3.1) divides frequencies whose wavelength is long by ``factor``, keeps short ones, and
    interpolates between; ``linear`` divides all of them.
    """
    # Each operation in float32, in the order of the reference, so that far positions agree too.
    exponent = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(cfg.head_dim)
    freq = np.float32(1.0) / np.float32(cfg.rope_theta) ** exponent
    scaling = cfg.rope_scaling
    if scaling is None:
        return freq
    if scaling.kind == "linear":
        return freq / np.float32(scaling.factor)
    wavelength = 2 * math.pi / freq
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((scaling.original_max_positions / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * freq / scaling.factor + smooth * freq).astype(np.float32)


def rope_tables(positions: Array, cfg: ModelConfig) -> tuple[Array, Array]:
    """Cosine and sine of ``position * frequency``, float32 ``[..., 1, H/2]`` (the 1 is the heads' axis)."""
    freq = jnp.expand_dims(jnp.asarray(rope_frequencies(cfg)), range(positions.ndim))
    angles = positions.astype(jnp.float32)[..., None] * freq
    return jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]


def rotate(x: Array, tables: tuple[Array, Array] | None) -> Array:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split layout of Hugging Face.

    Args:
        x: ``[..., heads, H]``.
        tables: from :func:`rope_tables` for the same leading axes; None: nothing is rotated.
    """
    if tables is None:
        return x
    cos, sin = tables
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


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
    batch, time, heads, width = q_BTNH.shape
    shared = k_BSKH.shape[2]
    q = q_BTNH.reshape(batch, time, shared, heads // shared, width)
    scores = jnp.einsum("btkrh,bskh->bkrts", q, k_BSKH, preferred_element_type=jnp.float32) * width**-0.5
    scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("bkrts,bskh->btkrh", weights, v_BSKH).reshape(batch, time, heads, width)


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
    batch, group, time, heads, width = q_BGTNH.shape
    prefix_len, shared = prefix_k_BPKH.shape[1:3]
    q = q_BGTNH.reshape(batch, group, time, shared, heads // shared, width)  # time is 0 for one new token
    to_prefix = jnp.einsum("bgtkrh,bpkh->bkrgtp", q, prefix_k_BPKH, preferred_element_type=jnp.float32)
    to_own = jnp.einsum("bgtkrh,bgskh->bkrgts", q, own_k_BGSKH, preferred_element_type=jnp.float32)
    to_prefix = jnp.where(prefix_mask[:, None, None], to_prefix * width**-0.5, MASKED)
    to_own = jnp.where(own_mask[:, None, None], to_own * width**-0.5, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_prefix, to_own], axis=-1), axis=-1).astype(own_v_BGSKH.dtype)
    from_prefix = jnp.einsum("bkrgtp,bpkh->bgtkrh", weights[..., :prefix_len], prefix_v_BPKH)
    from_own = jnp.einsum("bkrgts,bgskh->bgtkrh", weights[..., prefix_len:], own_v_BGSKH)
    return (from_prefix + from_own).reshape(batch, group, time, heads, width)
