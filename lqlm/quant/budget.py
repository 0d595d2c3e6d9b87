"""Bits where they matter: one format for each matrix, so that the total error is least within a budget of bytes.

Guo et al. 2023, LQ-LoRA, https://arxiv.org/abs/2311.12023, section 3.2: an integer linear program, known as the
multiple-choice knapsack problem.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from lqlm.errors import UserError
from lqlm.quant.mixed import MixedStack, mixed_stack
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from lqlm.trees import tree_bytes
from lqlm.types import Array

Format = QuantConfig | None
"""How one matrix is held; None is dense, in bfloat16."""

GAP = 1e-4
"""The error of an allocation is at most this share above the least possible."""


def label(fmt: Format) -> str:
    """A short name of a format.

    >>> label(QuantConfig("nf3", 32)), label(QuantConfig(double=False)), label(None)
    ('nf3-32', 'nf4-64-single', 'dense')
    """
    return "dense" if fmt is None else f"{fmt.codebook}-{fmt.block}" + ("" if fmt.double else "-single")


@functools.lru_cache(maxsize=4096)
def format_bytes(shape: tuple[int, int], fmt: Format) -> int:
    """Bytes of one matrix in a format, codes and all levels of maxima counted.

    Args:
        shape: (in, out).
        fmt: the format.

    >>> format_bytes((4096, 4096), QuantConfig()) * 8 / 4096**2
    4.126955032348633
    """
    w = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return tree_bytes(w) if fmt is None else tree_bytes(jax.eval_shape(functools.partial(quantize, config=fmt), w))


@functools.partial(jax.jit, static_argnames="fmt")
def format_errors(w: Array, fmt: Format, inputs: Array | None = None, outputs: Array | None = None) -> Array:
    """Weighted squared error that a format makes in each of L matrices, ``sum_io a_i g_o (w'_io - w_io)^2``.

    Without weights it is the squared Frobenius norm.  With ``a_i = E[x_i^2]`` it is the expected squared error of the
    map's output, if the errors of a column's entries are independent.  With ``g_o = E[dy_o^2]`` besides, ``a_i g_o``
    stands for the diagonal of the Fisher information (K-FAC's factors, arXiv:1503.05671), and the sum for twice the
    expected rise of the loss.

    Args:
        w: floating [L, in, out].
        fmt: the format.
        inputs: float32 [L, in], a; None is 1.
        outputs: float32 [L, out], g; None is 1.

    Returns:
        float32 [L].
    """
    layers, fan_in, fan_out = w.shape
    a = jnp.ones((layers, fan_in)) if inputs is None else inputs
    g = jnp.ones((layers, fan_out)) if outputs is None else outputs

    def one(part: tuple[Array, Array, Array]) -> Array:
        w, a, g = part
        held = w.astype(jnp.bfloat16) if fmt is None else dequantize(quantize(w, fmt), jnp.float32)
        return a @ jnp.square(held.astype(jnp.float32) - w.astype(jnp.float32)) @ g

    return jax.lax.map(one, (w, a, g))


def allocate(sizes: np.ndarray, errors: np.ndarray, budget: int) -> np.ndarray:
    """Choose one of K formats for each of M matrices.

    ``min sum_m e_{m, k(m)}`` subject to ``sum_m s_{m, k(m)} <= budget``.

    Args:
        sizes: int [M, K], bytes of each matrix in each format.
        errors: float [M, K], not negative.
        budget: bytes.

    Returns:
        int [M], the formats k(m); their total error is within :data:`GAP` of the least possible.

    Raises:
        UserError: when the smallest formats together exceed the budget; it says how much they take.

    >>> allocate(np.array([[2, 4], [2, 4]]), np.array([[1.0, 0.1], [9.0, 0.9]]), budget=6).tolist()
    [0, 1]
    """
    sizes, errors = np.asarray(sizes, np.int64), np.asarray(errors, np.float64)
    if not np.isfinite(errors).all() or (errors < 0).any():
        raise ValueError("errors must be finite and not negative")
    least = int(sizes.min(axis=1).sum())
    if least > budget:
        raise UserError(f"a budget of {budget} bytes cannot be met: the smallest formats take {least}; allow as much")
    room = budget
    while True:
        chosen = _solve(sizes, errors, room)
        excess = int(_taken(sizes, chosen).sum()) - budget
        if excess <= 0:
            return chosen
        room -= excess  # the solver keeps constraints up to a tolerance; bytes are exact


def _taken(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.take_along_axis(table, chosen[:, None], axis=1)[:, 0]


def _solve(sizes: np.ndarray, errors: np.ndarray, budget: int) -> np.ndarray:
    """The integer program: binaries x_mk, one per matrix, ``sum_k x_mk = 1``."""
    count, options = sizes.shape
    least = sizes.min(axis=1)
    if least.sum() > budget:
        return sizes.argmin(axis=1)
    unit = math.gcd(*map(int, (sizes - least[:, None]).ravel())) or 1
    over = ((sizes - least[:, None]) // unit).ravel().astype(np.float64)
    each = sparse.kron(sparse.eye(count), np.ones((1, options)), format="csr")
    limits = [
        optimize.LinearConstraint(each, 1, 1),
        optimize.LinearConstraint(sparse.csr_matrix(over), -np.inf, (budget - least.sum()) // unit),
    ]
    cost = errors.ravel() / (errors.mean() or 1.0)
    found = optimize.milp(cost, constraints=limits, bounds=(0, 1), integrality=1, options={"mip_rel_gap": GAP})
    if found.x is None:
        raise RuntimeError(f"the integer program was not solved: {found.message}")
    return found.x.reshape(count, options).argmax(axis=1)


def in_formats(w: Array, formats: Sequence[Format], dtype: jnp.dtype) -> MixedStack | QTensor | Array:
    """Hold the layers of one linear map each in its format.

    Args:
        w: dense [L, in, out].
        formats: one for each layer.
        dtype: into which quantized layers are dequantized.

    Returns:
        A :class:`QTensor` or an array where all layers are of one format, else a :class:`MixedStack`.
    """
    if len(set(formats)) == 1:
        return _held(w, formats[0], dtype)
    return mixed_stack([_held(one, fmt, dtype) for one, fmt in zip(w, formats)])


def _held(w: Array, fmt: Format, dtype: jnp.dtype) -> QTensor | Array:
    return w.astype(jnp.bfloat16) if fmt is None else quantize(w, fmt, dtype)
