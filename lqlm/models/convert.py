"""From tensors under Hugging Face names to the base tree that ``forward`` reads.

The base tree: ``{"embed": [V, D], "norm": [D], "head": [D, V] (absent when tied), "layers": {...}}``, of OPT also
``"norm_bias": [D]`` and the table ``"positions": [2 + max_positions, D]``; in ``layers`` every array has a leading axis
L, linear maps are ``[L, in, out]`` or a QTensor of that shape, and the keys are those of
:func:`layer_tensors`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import LINEARS
from lqlm.errors import UserError
from lqlm.models import opt
from lqlm.models.config import ModelConfig
from lqlm.quant.mixed import MixedStack, mixed_stack
from lqlm.quant.qtensor import QTensor, QuantConfig, check_finite, quantize
from lqlm.types import Array, PyTree

_DTYPES = ("float32", "bfloat16")
_IGNORED = "rotary_emb.inv_freq"  # a buffer of old checkpoints, computed from the config here

# read(HF name, shape in the checkpoint) -> float32 array
Read = Callable[[str, tuple[int, ...]], np.ndarray]


def layer_tensors(cfg: ModelConfig, output_bias: bool = False) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What one layer consists of.

    Args:
      cfg: the model's shape.
      output_bias: whether o_proj has a bias (Llama's ``attention_bias``).

    Returns:
      Key in ``base["layers"]`` to the Hugging Face name inside ``model.layers.N`` and the shape there, ``[out, in]``
      for linear maps.
    """
    if cfg.family == "opt":
        return opt.layer_shapes(cfg.width, cfg.ffn)
    width, ffn, own, shared = cfg.width, cfg.ffn, cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "input_norm": ("input_layernorm.weight", (width,)),
        "post_norm": ("post_attention_layernorm.weight", (width,)),
        "q_proj": ("self_attn.q_proj.weight", (own, width)),
        "k_proj": ("self_attn.k_proj.weight", (shared, width)),
        "v_proj": ("self_attn.v_proj.weight", (shared, width)),
        "o_proj": ("self_attn.o_proj.weight", (width, own)),
        "gate_proj": ("mlp.gate_proj.weight", (ffn, width)),
        "up_proj": ("mlp.up_proj.weight", (ffn, width)),
        "down_proj": ("mlp.down_proj.weight", (width, ffn)),
    }
    if cfg.qkv_bias:
        outs = {"q": own, "k": shared, "v": shared, **({"o": width} if output_bias else {})}
        found |= {f"{name}_bias": (f"self_attn.{name}_proj.bias", (out,)) for name, out in outs.items()}
    if cfg.qk_norm:
        found |= {f"{name}_norm": (f"self_attn.{name}_norm.weight", (cfg.head_dim,)) for name in ("q", "k")}
    return found


def root_of(cfg: ModelConfig) -> str:
    """What stands before ``layers.N`` in the names of a model's tensors."""
    return "model.decoder" if cfg.family == "opt" else "model"


def outer_tensors(cfg: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a model consists of besides its layers: key in the base to the Hugging Face name and the shape there."""
    root, final = root_of(cfg), "final_layer_norm" if cfg.family == "opt" else "norm"
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embed": (f"{root}.embed_tokens.weight", (cfg.vocab_size, cfg.width)),
        "norm": (f"{root}.{final}.weight", (cfg.width,)),
    }
    if cfg.learned_positions:
        found["norm_bias"] = (f"{root}.{final}.bias", (cfg.width,))
        found["positions"] = (opt.POSITIONS, (opt.FIRST_POSITION + cfg.max_positions, cfg.width))
    return found if cfg.tied else {**found, "head": ("lm_head.weight", (cfg.vocab_size, cfg.width))}


def from_hf_tensors(
    get: Callable[[str], np.ndarray],
    names: Iterable[str],
    cfg: ModelConfig,
    *,
    quant: QuantConfig | None,
    dtype: str,
    describe: Callable[[str], str] = "tensor {}".format,
    packed: Callable[[str], QTensor | Array | None] | None = None,
) -> PyTree:
    """Builds the base tree, one linear map of one layer at a time.

    Beyond the result, the memory held is one tensor in float32 and one linear map of all layers.

    Args:
      get: gives a tensor by its Hugging Face name, linear weights as ``[out, in]``.
      names: the names of all tensors there are.
      cfg: the model's shape, against which every tensor is checked.
      quant: how the linear maps of the layers are quantized; None keeps them dense.
      dtype: ``float32`` or ``bfloat16``, of everything dense, and into which quantized weights are dequantized.
      describe: says where a tensor lies, for messages.
      packed: gives the weight of a linear map that the checkpoint holds quantized (or dense in a dtype to be kept), as
        ``[in, out]``, and None for one that it holds dense; such a checkpoint goes with ``quant`` None.  The layers of
        one linear map may differ.

    Returns:
      The base tree.

    Raises:
      UserError: if a tensor is missing, of another shape, not finite, or not one that this model has.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is not supported; use one of {', '.join(_DTYPES)}")
    present = frozenset(names)
    table = layer_tensors(cfg, "model.layers.0.self_attn.o_proj.bias" in present)
    _check_names(present, table, cfg, describe)

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return _read(get, name, shape, describe)

    def stack(key: str, name: str, shape: tuple[int, ...]) -> PyTree:
        names = [f"{root_of(cfg)}.layers.{i}.{name}" for i in range(cfg.layers)]
        given = [packed(each) for each in names] if packed is not None and key in LINEARS else []
        if any(q is not None for q in given):
            return _given(given, read, names, shape, describe, dtype)
        return _stack(read, key, names, shape, quant, dtype)

    base: dict[str, PyTree] = {"layers": {key: stack(key, *table[key]) for key in table}}
    for key, (name, shape) in outer_tensors(cfg).items():
        array = read(name, shape)
        base[key] = _dense(array.T if key == "head" else array, dtype)
    return base


def _check_names(
    present: frozenset[str],
    table: dict[str, tuple[str, tuple[int, ...]]],
    cfg: ModelConfig,
    describe: Callable[[str], str],
) -> None:
    if not cfg.tied and "lm_head.weight" not in present:
        raise UserError(
            f"{describe('lm_head.weight')} is missing; if the model is tied, set tie_word_embeddings to true"
        )
    needed = {f"{root_of(cfg)}.layers.{i}.{name}" for i in range(cfg.layers) for name, _ in table.values()}
    needed |= {name for name, _ in outer_tensors(cfg).values()}
    for name in sorted(needed - present):
        raise UserError(f"{describe(name)} is missing; the checkpoint is incomplete or its config is another model's")
    # A tensor that is not understood would be left out of the computation: wrong numbers instead of an error.
    for name in sorted(present - needed - {"lm_head.weight"}):
        if not name.endswith(_IGNORED):
            raise UserError(f"{describe(name)} has no place in a {cfg.family} model of {cfg.layers} layers")


def _read(
    get: Callable[[str], np.ndarray], name: str, shape: tuple[int, ...], describe: Callable[[str], str]
) -> np.ndarray:
    array = get(name)
    if array.shape != shape:
        raise UserError(f"{describe(name)} has shape {list(array.shape)}; by its config the model needs {list(shape)}")
    array = np.asarray(array, np.float32)
    check_finite(describe(name), array)
    return array


def _dense(array: np.ndarray, dtype: str) -> Array:
    return jnp.asarray(np.ascontiguousarray(array, jnp.dtype(dtype)))


def _stack(
    read: Read, key: str, names: list[str], shape: tuple[int, ...], quant: QuantConfig | None, dtype: str
) -> Array | QTensor:
    """One tensor of every layer, linear maps turned to ``[in, out]``."""
    if quant is not None and key in LINEARS:
        each = [quantize(jnp.asarray(read(name, shape)).T, quant, jnp.dtype(dtype)) for name in names]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    stacked = np.empty((len(names), *reversed(shape)), jnp.dtype(dtype))
    for layer, name in enumerate(names):
        stacked[layer] = read(name, shape).T
    return jnp.asarray(stacked)


def _given(
    given: Sequence[QTensor | Array | None],
    read: Read,
    names: list[str],
    shape: tuple[int, ...],
    describe: Callable[[str], str],
    dtype: str,
) -> MixedStack | QTensor | Array:
    """One linear map of every layer as the checkpoint holds it: quantized, or dense where ``given`` is None."""

    def matrix(q: QTensor | Array | None, name: str) -> QTensor | Array:
        if q is None:
            return _dense(read(name, shape).T, dtype)
        if q.shape != shape[::-1]:
            found, needed = list(q.shape[::-1]), list(shape)
            raise UserError(f"{describe(name)} is quantized from {found}; by its config the model needs {needed}")
        if not isinstance(q, QTensor):
            check_finite(describe(name), q)
            return q
        return dataclasses.replace(q, dtype=jnp.dtype(dtype))

    return mixed_stack([matrix(q, name) for q, name in zip(given, names)])
