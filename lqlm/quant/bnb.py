"""Exchange of 4-bit matrices with bitsandbytes' state dicts (what Hugging Face's pre-quantized checkpoints hold).

A linear layer's ``weight`` is uint8 [ceil(out * in / 2), 1]; beside it lie ``weight.absmax`` and so on.  The keys here
are those names from ``weight`` on.
"""

import dataclasses
import json
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.quant.codebooks import NF4, dynamic_map
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.qtensor import QTensor, QuantConfig
from lqlm.types import Array

STATE = "weight.quant_state.bitsandbytes__nf4"


def to_bnb(q: QTensor) -> dict[str, np.ndarray]:
    """Write one matrix as bitsandbytes 0.50.2 would have quantized its transpose, equal in every byte.

    Args:
        q: one matrix, without leading axes.

    Returns:
        Arrays under "weight" (uint8 [ceil(in * out / 2), 1]), "weight.absmax" (uint8 or float32),
        "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map" (both only with double quantization) and
        the remaining facts as JSON in the bytes of "weight.quant_state.bitsandbytes__nf4".
    """
    if q.lead:
        raise ValueError(f"to_bnb takes one matrix, not a stack of {q.lead}: slice it with jax.tree.map")
    codes = q.codes.T if q.rows else q.codes
    state = {"quant_type": "nf4", "blocksize": q.config.block, "dtype": q.dtype.name, "shape": list(q.shape[::-1])}
    out = {"weight": np.asarray(codes).reshape(-1, 1), "weight.quant_map": NF4.copy()}
    if isinstance(q.maxima, DoubleQuantized):
        out["weight.absmax"] = np.asarray(q.maxima.codes)
        out["weight.nested_absmax"] = np.asarray(q.maxima.absmax)
        out["weight.nested_quant_map"] = dynamic_map()
        state |= {"nested_blocksize": q.maxima.block, "nested_dtype": "float32"}
        state |= {"nested_offset": float(q.maxima.offset)}
    else:
        out["weight.absmax"] = np.asarray(q.maxima.T if q.rows else q.maxima).reshape(-1)
    return out | {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}


def from_bnb(tensors: Mapping[str, np.ndarray]) -> QTensor:
    """Read one matrix that bitsandbytes quantized; the inverse of :func:`to_bnb`.

    Args:
        tensors: arrays under the keys that :func:`to_bnb` writes.

    Returns:
        A :class:`QTensor` of [in, out] for bitsandbytes' [out, in].
    """
    if STATE not in tensors:
        raise UserError(f"bitsandbytes weight has no {STATE}: only NF4 checkpoints can be read; use the 16-bit model")
    state = json.loads(bytes(np.asarray(tensors[STATE])))
    nested = "nested_blocksize" in state
    config = QuantConfig("nf4", state["blocksize"], nested, state.get("nested_blocksize", 256))
    shape = (state["shape"][1], state["shape"][0])
    maxima = _read_double(tensors, state) if nested else jnp.asarray(tensors["weight.absmax"]).reshape(-1)
    q = QTensor(jnp.asarray(tensors["weight"]).reshape(-1), maxima, shape, jnp.dtype(state["dtype"]), config)
    return _as_rows(q) if q.rows else q


def _read_double(tensors: Mapping[str, np.ndarray], state: dict) -> DoubleQuantized:
    if not np.array_equal(np.asarray(tensors["weight.nested_quant_map"]), dynamic_map()):
        raise UserError("weight.nested_quant_map is not bitsandbytes' signed dynamic map: use the 16-bit model")
    offset = jnp.float32(state["nested_offset"])
    codes, absmax = jnp.asarray(tensors["weight.absmax"]), jnp.asarray(tensors["weight.nested_absmax"])
    return DoubleQuantized(codes.reshape(-1), absmax.reshape(-1), offset, state["nested_blocksize"])


def _as_rows(q: QTensor) -> QTensor:
    """Transpose flat bytes (and plain maxima) into the order of the [in, out] matrix."""
    maxima: Array | DoubleQuantized = q.maxima
    if not isinstance(maxima, DoubleQuantized):
        maxima = maxima.reshape(q.shape[1], -1).T
    return dataclasses.replace(q, codes=q.codes.reshape(q.shape[1], -1).T, maxima=maxima)
