"""Exchange of 4-bit matrices with bitsandbytes' state dicts (what Hugging Face's pre-quantized checkpoints hold).

A linear layer's ``weight`` is uint8 [ceil(out * in / 2), 1]; beside it lie ``weight.absmax`` and so on.  The keys here
are those names from ``weight`` on.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.quant.codebooks import CODEBOOKS, dynamic_map
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.qtensor import QTensor, QuantConfig, check_finite

STATE = "weight.quant_state.bitsandbytes__"
"""Start of the key of the facts that are no tensors; the type follows."""

TYPES = ("nf4", "fp4")
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK = 256
_DTYPES = ("float32", "bfloat16", "float16")
_FETCH = "fetch the checkpoint again, or use the 16-bit model"


def to_bnb(q: QTensor, where: str = "weight") -> dict[str, np.ndarray]:
    """Write one matrix as bitsandbytes 0.50.2 would have quantized its transpose, equal in every byte.

    Args:
        q: one matrix, without leading axes.
        where: names it in messages.

    Returns:
        Arrays under "weight" (uint8 [ceil(in * out / 2), 1]), "weight.absmax" (uint8 or float32),
        "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map" (both only with double quantization) and
        the remaining facts as JSON in the bytes of "weight.quant_state.bitsandbytes__nf4" (or ``__fp4``).

    Raises:
        UserError: for a format that bitsandbytes does not read.
    """
    if q.lead:
        raise ValueError(f"to_bnb takes one matrix, not a stack of {q.lead}: slice it with jax.tree.map")
    _check_writable(q, where)
    kind = q.config.codebook
    codes = q.codes.T if q.rows else q.codes
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": q.config.block,
        "dtype": q.dtype.name,
        "shape": list(q.shape[::-1]),
    }
    out = {"weight": np.asarray(codes).reshape(-1, 1), "weight.quant_map": CODEBOOKS[kind].copy()}
    if isinstance(q.maxima, DoubleQuantized):
        out["weight.absmax"] = np.asarray(q.maxima.codes)
        out["weight.nested_absmax"] = np.asarray(q.maxima.absmax)
        out["weight.nested_quant_map"] = dynamic_map()
        state |= {"nested_blocksize": q.maxima.block, "nested_dtype": "float32"}
        state |= {"nested_offset": float(q.maxima.offset)}
    else:
        out["weight.absmax"] = np.asarray(q.maxima.T if q.rows else q.maxima).reshape(-1)
    return out | {STATE + kind: np.frombuffer(json.dumps(state).encode(), np.uint8)}


def _check_writable(q: QTensor, where: str) -> None:
    """bitsandbytes has two codebooks, blocks that are powers of two, 256 maxima to a second one, and no shifts."""
    wrong = None
    if q.config.codebook not in TYPES:
        wrong = f"codebook {q.config.codebook}; quantize to nf4 or fp4"
    elif q.config.block not in BLOCKS:
        wrong = f"block {q.config.block}; quantize with a power of two from 32 to 4096"
    elif q.config.double and q.config.double_block != NESTED_BLOCK:
        wrong = f"double_block {q.config.double_block}; quantize with {NESTED_BLOCK}"
    elif q.shift is not None:
        wrong = "group-wise adapters merged into it; write a dense or GGUF model"
    elif q.dtype.name not in _DTYPES:
        wrong = f"dtype {q.dtype.name}; quantize with one of {', '.join(_DTYPES)}"
    if wrong:
        raise UserError(f"{where}: bitsandbytes reads no weight with {wrong}")


def is_bnb_key(key: str) -> bool:
    """Whether a tensor's name is that of a fact beside a quantized weight, not of a weight or bias.

    >>> is_bnb_key("model.layers.0.mlp.up_proj.weight.absmax"), is_bnb_key("model.norm.weight")
    (True, False)
    """
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    return any(key.endswith(f".weight.{part}") for part in parts) or ".weight.quant_state.bitsandbytes__" in key


def from_bnb(tensors: Mapping[str, np.ndarray], where: str = "bitsandbytes weight") -> QTensor:
    """Read one matrix that bitsandbytes quantized, its bytes as they are; the inverse of :func:`to_bnb`.

    Args:
        tensors: arrays under the keys that :func:`to_bnb` writes.  ``weight`` may be stored as another dtype of the
            same bytes (``bnb_4bit_quant_storage``).
        where: the file and tensor, for messages.

    Returns:
        A :class:`QTensor` of [in, out] for bitsandbytes' [out, in].

    Raises:
        UserError: if anything is missing, damaged, or of another length than its shape and block size ask for.
    """
    state = read_state(tensors, where)
    nested, block = "nested_blocksize" in state, state["blocksize"]
    (fan_out, fan_in), blocks = state["shape"], -(-math.prod(state["shape"]) // block)
    config = QuantConfig(state["quant_type"], block, nested, state.get("nested_blocksize", NESTED_BLOCK))
    codes = _take(tensors, "weight", where).reshape(-1).view(np.uint8)
    _check_length("weight", codes, -(-fan_in * fan_out // 2), f"4-bit codes of {state['shape']}", where)
    _check_map(tensors, "weight.quant_map", config.values, where)
    absmax = _take(tensors, "weight.absmax", where, np.uint8 if nested else np.float32).reshape(-1)
    _check_length("weight.absmax", absmax, blocks, f"{state['shape']} in blocks of {block}", where)
    rows = fan_in % block == 0  # then the bytes of one output are a column, see lqlm.quant.qtensor
    if nested:
        maxima: Any = _read_double(tensors, state, absmax, where)
    else:
        check_finite(f"{where}: weight.absmax", absmax)
        maxima = jnp.asarray(absmax.reshape(fan_out, -1).T if rows else absmax)
    lying = jnp.asarray(codes.reshape(fan_out, -1).T if rows else codes)
    return QTensor(lying, maxima, (fan_in, fan_out), np.dtype(jnp.dtype(state["dtype"])), config)


def read_state(tensors: Mapping[str, np.ndarray], where: str = "bitsandbytes weight") -> dict[str, Any]:
    """The facts of one quantized matrix that are no tensors, checked; of ``tensors`` only their entry is read.

    Args:
        tensors: as of :func:`from_bnb`.
        where: for messages.

    Returns:
        ``quant_type``, ``blocksize``, ``dtype``, ``shape`` [out, in]; with double quantization ``nested_blocksize``
        and ``nested_offset``.

    Raises:
        UserError: if the entry is missing, truncated, or says what lqlm cannot read.
    """
    found = [key for key in tensors if key.startswith(STATE)]
    if len(found) != 1:
        raise UserError(
            f"{where}: has {len(found)} entries {STATE}nf4 or __fp4 where one is needed; only 4-bit checkpoints of "
            "bitsandbytes can be read, use the 16-bit model"
        )
    key = f"{where}: {found[0]}"
    try:
        state = json.loads(np.asarray(tensors[found[0]]).tobytes())
    except ValueError as error:
        raise UserError(f"{key} is truncated or no JSON ({error}); {_FETCH}") from error
    if not isinstance(state, dict):
        raise UserError(f"{key} is no JSON object; {_FETCH}")
    _check_state(state, key, found[0].removeprefix(STATE))
    _check_nested(tensors, state, key)
    return state


def _check_state(state: dict[str, Any], key: str, kind: str) -> None:
    if state.get("quant_type") not in TYPES or state["quant_type"] != kind:
        raise UserError(f"{key}: quant_type is {state.get('quant_type')!r}; only nf4 and fp4, as in the key, are read")
    if state.get("blocksize") not in BLOCKS:
        raise UserError(f"{key}: blocksize is {state.get('blocksize')!r}; only powers of two from 32 to 4096 are read")
    if state.get("dtype") not in _DTYPES:
        raise UserError(f"{key}: dtype is {state.get('dtype')!r}; only {', '.join(_DTYPES)} are read")
    shape = state.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(_positive(size) for size in shape):
        raise UserError(f"{key}: shape is {shape!r}; a linear layer's weight has two positive sizes [out, in]")


def _check_nested(tensors: Mapping[str, np.ndarray], state: dict[str, Any], key: str) -> None:
    """Double quantization is there with all its parts or not at all."""
    parts = {name: f"weight.{name}" in tensors for name in ("nested_absmax", "nested_quant_map")}
    parts |= {name: name in state for name in ("nested_blocksize", "nested_offset")}
    if not any(parts.values()):
        return
    for name, there in parts.items():
        if not there:
            raise UserError(f"{key}: of double quantization {name} is missing though other parts are there; {_FETCH}")
    if not _positive(state["nested_blocksize"]):
        raise UserError(f"{key}: nested_blocksize is {state['nested_blocksize']!r}; {_FETCH}")
    offset = state["nested_offset"]
    if not isinstance(offset, int | float) or not math.isfinite(offset):
        raise UserError(f"{key}: nested_offset is {offset!r}, not a finite number; {_FETCH}")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _take(
    tensors: Mapping[str, np.ndarray], name: str, where: str, dtype: type[np.generic] | None = None
) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"{where}: {name} is missing beside the quantized weight; {_FETCH}")
    array = np.ascontiguousarray(tensors[name])
    if dtype is not None and array.dtype != dtype:
        raise UserError(f"{where}: {name} has dtype {array.dtype}, expected {np.dtype(dtype)}; {_FETCH}")
    return array


def _check_length(name: str, array: np.ndarray, expected: int, what: str, where: str) -> None:
    if array.size != expected:
        raise UserError(f"{where}: {name} has {array.size} entries, {what} need {expected}; {_FETCH}")


def _check_map(tensors: Mapping[str, np.ndarray], name: str, values: np.ndarray, where: str) -> None:
    # Other versions computed the maps with a different last bit; the numbers that are meant are the same.
    found = _take(tensors, name, where, np.float32).reshape(-1)
    if found.shape != values.shape or not np.allclose(found, values, rtol=1e-6, atol=0):
        raise UserError(f"{where}: {name} is not the codebook that its type names; use the 16-bit model")


def _read_double(
    tensors: Mapping[str, np.ndarray], state: dict[str, Any], codes: np.ndarray, where: str
) -> DoubleQuantized:
    _check_map(tensors, "weight.nested_quant_map", dynamic_map(), where)
    block = state["nested_blocksize"]
    absmax = _take(tensors, "weight.nested_absmax", where, np.float32).reshape(-1)
    _check_length("weight.nested_absmax", absmax, -(-codes.size // block), f"{codes.size} maxima by {block}", where)
    check_finite(f"{where}: weight.nested_absmax", absmax)
    return DoubleQuantized(jnp.asarray(codes), jnp.asarray(absmax), jnp.float32(state["nested_offset"]), block)
