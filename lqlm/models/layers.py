"""The pieces of a decoder layer, each a pure function: norms and rotary positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.models.config import ModelConfig
from lqlm.types import Array, PyTree


def rms_norm(x: Array, scale_D: Array, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis (Zhang and Sennrich 2019), in float32 inside."""
    scale = jnp.expand_dims(scale_D, range(x.ndim - 1))
    return unit_rms(x, eps) * scale.astype(x.dtype)


def unit_rms(x: Array, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps)`` over the last axis, in float32 inside.

    A first axis of 1 is left out: the gradient asks for sums of products, and XLA's CPU compiler takes ten times as
    long for those of an array that begins so.
    """
    wide = (x[0] if x.ndim > 1 and len(x) == 1 else x).astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return unit.astype(x.dtype).reshape(x.shape)


def layer_norm(x: Array, scale_D: Array, bias_D: Array, eps: float) -> Array:
    """``(x - mean(x)) / sqrt(var(x) + eps) * scale + bias`` over the last axis (Ba et al. 2016), in float32 inside."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = unit_rms(centred, eps)
    scale, bias = (jnp.expand_dims(part, range(x.ndim - 1)).astype(jnp.float32) for part in (scale_D, bias_D))
    return (normed * scale + bias).astype(x.dtype)


def norm(x: Array, weights: PyTree, name: str, eps: float) -> Array:
    """The norm ``name`` of a tree of weights: a LayerNorm where it has a bias, else an RMSNorm."""
    bias = weights.get(f"{name}_bias")
    return rms_norm(x, weights[name], eps) if bias is None else layer_norm(x, weights[name], bias, eps)


@jax.custom_vjp
def swiglu(gate: Array, up: Array) -> Array:
    """``silu(gate) * up`` with ``silu(g) = g / (1 + exp(-g))`` (Shazeer 2020, arXiv:2002.05202).

    The backward pass keeps its two inputs, the widest activations of a layer; left to itself, JAX keeps five such.
    """
    return jax.nn.silu(gate) * up


def _swiglu_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    gate, up, wide = (part.astype(jnp.float32) for part in (*kept, dy))
    open_ = jax.nn.sigmoid(gate)
    d_gate = wide * up * open_ * (1.0 + gate * (1.0 - open_))
    return d_gate.astype(dy.dtype), (wide * gate * open_).astype(dy.dtype)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


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
