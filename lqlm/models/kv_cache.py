"""Keys and values in storage: as they were computed, or in 8 bits with a scale for each token and key/value head.

What each format does to the log-probabilities of SmolLM2-135M (float32, 600 tokens sampled at temperature 1) against
the trainer's, which stores nothing (``benchmarks.engine``), and its bytes for each key or value of 64 numbers:

======== ===== ============= ==========
format   bytes largest error mean error
======== ===== ============= ==========
model      256       0.00003   0.000005
bfloat16   128       0.11      0.005
fp8         68       1.8       0.07
int8        68       0.3       0.03
======== ===== ============= ==========

Narrow floats are held as their bits, unsigned integers of the same width: XLA's CPU backend moves such floats as wider
ones, and would convert the whole cache at every token.
"""

from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.models.config import ModelConfig
from lqlm.types import Array, PyTree

CacheFormat = Literal["model", "bfloat16", "fp8", "int8"]
"""``model`` is the type that the model computes in; the last two are scaled."""

_FP8, _INT8, _BFLOAT16 = jnp.dtype(jnp.uint8), jnp.dtype(jnp.int8), jnp.dtype(jnp.uint16)
_FLOATS = {_FP8: jnp.float8_e4m3fn, _BFLOAT16: jnp.bfloat16}  # whose bits they are
LARGEST = {_FP8: 448.0, _INT8: 127.0}
"""The number that the largest magnitude of a vector is stored as, of the types that are scaled."""


@flax.struct.dataclass
class Scaled:
    """Vectors x in 8 bits: ``x_i ~ scale * codes_i``, ``scale = max_i |x_i| / c`` with c of `LARGEST`.

    Attributes:
        codes: int8, or the bits of float8_e4m3fn as uint8, ``[..., H]``.
        scale: float32 ``[...]``, 0 for a vector of zeros.
    """

    codes: Array
    scale: Array


KV = Array | Scaled


class OwnCache(NamedTuple):
    """Keys and values of the samples' own tokens, each ``[L, B, G, S, K, H]``."""

    k_LBGSKH: KV
    v_LBGSKH: KV


def storage_type(cache: CacheFormat, dtype: Any) -> Any:
    """The type of array that a format stores, where the model computes in ``dtype``."""
    types = {"model": dtype, "bfloat16": _BFLOAT16, "fp8": _FP8, "int8": _INT8}
    return jnp.dtype(types[cache])


def type_of(kv: KV) -> Any:
    """The type of array that is stored."""
    return kv.codes.dtype if isinstance(kv, Scaled) else kv.dtype


def zeros(shape: tuple[int, ...], dtype: Any) -> KV:
    """Room for vectors ``[..., H]``.

    Args:
        shape: of the vectors.
        dtype: as from :func:`storage_type`.
    """
    room = jnp.zeros(shape, dtype)
    return Scaled(room, jnp.zeros(shape[:-1], jnp.float32)) if jnp.dtype(dtype) in LARGEST else room


def store(x: Array, dtype: Any) -> KV:
    """Vectors ``[..., H]`` as they are stored: cast, or ``x_i / scale`` rounded to the numbers of 8 bits.

    A vector with a number that is not finite is read back without a finite one, so that it does not go unseen.

    Args:
        x: in the type that the model computes in.
        dtype: as from :func:`storage_type`.

    >>> kv = store(jnp.array([[0.5, -2.0, 0.01]]), jnp.int8)
    >>> print(kv.codes, kv.scale * 127)
    [[  32 -127    1]] [2.]
    """
    dtype = jnp.dtype(dtype)
    if dtype not in LARGEST:
        return _bits(x, dtype)
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1) / LARGEST[dtype]
    ratio = wide / jnp.where(scale > 0, scale, 1.0)[..., None]
    return Scaled(_bits(jnp.round(ratio) if dtype == _INT8 else ratio, dtype), scale)


def read(kv: KV, dtype: Any) -> Array:
    """Vectors ``[..., H]`` in the type to compute with: ``scale * codes``."""
    if not isinstance(kv, Scaled):
        return _numbers(kv).astype(dtype)
    return (_numbers(kv.codes).astype(jnp.float32) * kv.scale[..., None]).astype(dtype)


def _bits(x: Array, dtype: Any) -> Array:
    return jax.lax.bitcast_convert_type(x.astype(_FLOATS[dtype]), dtype) if dtype in _FLOATS else x.astype(dtype)


def _numbers(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, _FLOATS[x.dtype]) if x.dtype in _FLOATS else x


def layer_of(kv: KV, layer: Array) -> KV:
    """One layer of a cache ``[L, ...]``."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), kv)


def write(kv_LBGSKH: KV, new_BGKH: Array, layer: Array, step: Array) -> KV:
    """The cache with one more token of every sample.

    Args:
        kv_LBGSKH: of any format.
        new_BGKH: keys or values of the token.
        layer: int32 scalar.
        step: the token's place S: int32, a scalar for all samples, or ``[B or 1, G or 1]``.  A place beyond the end is
            not written.
    """
    put = _put_at_one_place if jnp.ndim(step) == 0 else _put_at_places
    new = store(new_BGKH, type_of(kv_LBGSKH))
    return jax.tree.map(lambda buffer, rows: put(buffer, rows, layer, step), kv_LBGSKH, new)


def _put_at_one_place(buffer: Array, rows: Array, layer: Array, step: Array) -> Array:
    zero = jnp.zeros((), jnp.int32)
    start = (layer, zero, zero, step) + (zero,) * (buffer.ndim - 4)
    return jax.lax.dynamic_update_slice(buffer, rows[None, :, :, None], start)


def _put_at_places(buffer: Array, rows: Array, layer: Array, step_BG: Array) -> Array:
    batch, group = buffer.shape[1:3]
    step_BG = jnp.broadcast_to(step_BG, (batch, group))
    prompt, sample = jnp.arange(batch, dtype=jnp.int32)[:, None], jnp.arange(group, dtype=jnp.int32)[None]
    return buffer.at[layer, prompt, sample, step_BG].set(rows, mode="drop")


def bytes_per_token(cfg: ModelConfig, cache: CacheFormat, dtype: Any) -> int:
    """Bytes of one token's keys and values in all layers: ``2 L K (H b + s)``, b and s of a number and of a scale.

    Args:
        cfg: the model's shape.
        cache: the format.
        dtype: what the model computes in.

    >>> import types
    >>> cfg = types.SimpleNamespace(layers=30, kv_heads=3, head_dim=64)
    >>> [bytes_per_token(cfg, cache, "float32") for cache in ("model", "bfloat16", "fp8", "int8")]
    [46080, 23040, 12240, 12240]
    """
    number = storage_type(cache, dtype)
    return 2 * cfg.layers * cfg.kv_heads * (cfg.head_dim * number.itemsize + 4 * (number in LARGEST))


def cache_bytes(caches: PyTree) -> int:
    """Bytes of the arrays of caches."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(caches))
