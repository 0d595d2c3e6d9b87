"""Weights laid out as decoding on a processor reads them fastest.

A step of decoding reads every matrix once for a few rows, so that the time is that of the reading.  In bfloat16 XLA's
CPU backend needs 15 ms to multiply 8 rows by the matrices of SmolLM2-135M where each is an array of its own and kept as
[out, in], 36 ms where a scan slices stacks of [in, out] (2 cores).  With 32 rows both are as fast, with 64 the stacks
are faster; in float32 the gain is less than making the copy costs.
"""

import jax
import jax.numpy as jnp

from lqlm.adapters.configs import LINEARS
from lqlm.quant.transposed import Transposed
from lqlm.types import Array, PyTree

MOST_ROWS = 16
"""With more the stacks are read as fast."""


def for_decoding(base: PyTree, rows: int) -> PyTree:
    """The base with its layers in a tuple and their matrices, and the head's, as :class:`Transposed`.

    A base whose linear maps are not all dense bfloat16, that meets more than `MOST_ROWS` rows or none, or that another
    backend than the CPU's computes with, is returned as it is.  Programs that read the result have the layers unrolled:
    they compile three times as long.

    Args:
        base: weights, to be computed with but not trained.
        rows: samples that take a token at once.
    """
    layers = base["layers"]
    linears = [name for name in layers if name in LINEARS]
    fits = 0 < rows <= MOST_ROWS and jax.default_backend() == "cpu"
    if not (fits and all(_narrow(layers[name]) for name in linears)):
        return base
    count = len(layers[linears[0]])
    apart = tuple({name: _one(w[number], name in LINEARS) for name, w in layers.items()} for number in range(count))
    head = {"head": Transposed(base["head"].T)} if "head" in base and _narrow(base["head"]) else {}
    return {**base, **head, "layers": apart}


def _narrow(w: PyTree) -> bool:
    return isinstance(w, jax.Array) and w.dtype == jnp.bfloat16


def _one(w: Array, linear: bool) -> Array | Transposed:
    return Transposed(w.T) if linear else w
