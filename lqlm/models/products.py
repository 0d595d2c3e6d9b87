"""In which dtype a model multiplies: the products of its linear maps apart from everything else that it computes.

Processors multiply bfloat16 several times faster than float32, and add what they multiply in float32.  With the
residual stream, norms, attention and log-probabilities in float32 most of the precision stays.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from lqlm.adapters.configs import LINEARS
from lqlm.quant.mixed import MixedStack
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array, PyTree


def with_products(base: PyTree, dtype: Any, *, head: bool = True) -> PyTree:
    """The base with linear maps, and the head, whose products are computed in ``dtype`` and summed in float32.

    Codes stay as they are: a quantized weight is dequantized to ``dtype``.  A dense one is rounded to it.

    Args:
        base: the model's tree.
        dtype: of the products' operands, such as bfloat16; the results have the dtype of the activations.
        head: give the head that dtype too; a tied model then holds its embedding a second time, as ``[D, V]``.
    """
    dtype = jnp.dtype(dtype)
    layers = {name: _cast(w, dtype) if name in LINEARS else w for name, w in base["layers"].items()}
    found = {**base, "layers": layers}
    return found | {"head": (base["head"] if "head" in base else base["embed"].T).astype(dtype)} if head else found


def _cast(w: Array | QTensor | MixedStack, dtype: jnp.dtype) -> Array | QTensor | MixedStack:
    if isinstance(w, MixedStack):
        return w.replace(stacks=tuple(_cast(stack, dtype) for stack in w.stacks))  # type: ignore[attr-defined]
    return dataclasses.replace(w, dtype=dtype) if isinstance(w, QTensor) else w.astype(dtype)
