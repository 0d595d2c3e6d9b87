"""Factors taken from the weight itself: each function parts one matrix into an adapter and what is left.

With ``s`` the adapter's scaling, ``w = rest + s * a @ b`` up to rounding (PiSSA, OLoRA), or as near as the quantized
rest allows (LoftQ).
"""

import jax.numpy as jnp

from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from lqlm.types import Array


def pissa(w: Array, rank: int, scale: Array | float) -> tuple[Array, Array]:
    """Principal components: ``a = U sqrt(S / s)``, ``b = sqrt(S / s) V^T`` of the largest singular values.

    Meng et al. 2024, arXiv:2404.02948, equations 2 and 3.

    Args:
        w: float32 [in, out].
        rank: R, at most min(in, out).
        scale: the adapter's scaling s.

    Returns:
        a [in, R] and b [R, out].
    """
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    root = jnp.sqrt(s[:rank] / scale)
    return u[:, :rank] * root[None, :], root[:, None] * vt[:rank]


def olora(w: Array, rank: int) -> tuple[Array, Array]:
    """Orthonormal factor: of ``w^T = Q R``, ``b`` is the first R columns of Q and ``a`` the first R rows of R.

    Buyukakyuz 2024, arXiv:2406.01775; the scaling is not divided out (as in PEFT), so that the rest is
    ``w - s a b``.

    Args:
        w: float32 [in, out].
        rank: R, at most min(in, out).

    Returns:
        a [in, R] and b [R, out].
    """
    q, r = jnp.linalg.qr(w.T)
    return r[:rank].T, q[:, :rank].T


def loftq(
    w: Array,
    rank: int,
    scale: Array | float,
    quant: QuantConfig,
    iterations: int,
    dtype: jnp.dtype | None = None,
    used: Array | int | None = None,
) -> tuple[QTensor, Array, Array]:
    """Alternately quantize what the factors leave, and decompose what quantization loses.

    ``q_t = Q(w - s a_{t-1} b_{t-1})``, ``s a_t b_t = SVD_R(w - q_t)``.  Li et al. 2023, arXiv:2310.08659, algorithm 1.
    What is lost falls in the first rounds; the algorithm does not promise that it always does.

    Args:
        w: float32 [in, out].
        rank: R, at most min(in, out).
        scale: the adapter's scaling s.
        quant: the quantization Q.
        iterations: T, at least 1.
        dtype: what the quantized matrix dequantizes into.
        used: int32 [], the rank of this matrix where others of its stack have a larger one; ``rank`` when None.

    Returns:
        The quantized matrix, a [in, R] and b [R, out].
    """
    left, used = w, jnp.asarray(rank if used is None else used)
    for _ in range(iterations):
        q = quantize(left, quant, dtype)
        a, b = pissa(w - dequantize(q, jnp.float32), rank, scale)
        a = jnp.where(jnp.arange(rank)[None] < used, a, 0.0)
        left = w - scale * a @ b
    return q, a, b
