"""Low-rank adapters of linear layers: LoRA, rsLoRA, DoRA, and the group-wise form of QA-LoRA.

``y = x @ w + scaling * dropout(x) @ a @ b`` (Hu et al. 2021, arXiv:2106.09685).  Adapters are a tree of their own,
beside the base, so that an optimizer and a checkpoint never see the base; several of them may share it.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lqlm.quant.matmul import matmul
from lqlm.quant.mixed import MixedLayer, dense
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array, Key


@flax.struct.dataclass
class Lora:
    """The factors of one linear layer, stacked over layers.

    Where the rank differs between layers, R is the largest, and what lies beyond a layer's rank is zero in both
    factors; its gradient is zero, so it stays so.

    Attributes:
        a: [L, in, R]; [L, in / group, R] where ``group`` is not 0.
        b: [L, R, out].
        scaling: of the product; one number, or one for each layer (static).
        dropout: of the input, while training (static).
        group: inputs that are averaged (static), see :func:`pooled`.
        ranks: of each layer where they differ, else None (static).
        bias: None, or [L, out], added to the second factor's output before scaling.
        magnitude: None, or [L, out], DoRA's norms, see :func:`apply_dora`.
    """

    a: Array
    b: Array
    scaling: float | tuple[float, ...] = flax.struct.field(pytree_node=False)
    dropout: float = flax.struct.field(pytree_node=False, default=0.0)
    group: int = flax.struct.field(pytree_node=False, default=0)
    ranks: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)
    bias: Array | None = None
    magnitude: Array | None = None

    @property
    def scalings(self) -> np.ndarray:
        """float32 [L], or [1] where all layers share one."""
        return np.atleast_1d(np.asarray(self.scaling, np.float32))

    def scale(self, layer: Array | None) -> Array:
        """The scaling of one layer, float32 []."""
        found = jnp.asarray(self.scalings)
        if len(self.scalings) == 1:
            return found[0]
        if layer is None:
            raise ValueError("the scaling differs between layers: say which layer it is")
        return found[layer]


def dropped(x: Array, lora: Lora, key: Key | None) -> Array:
    """``x`` with inputs dropped at the adapter's rate, the others scaled up; as it is when ``key`` is None."""
    if key is None or lora.dropout == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - lora.dropout, x.shape)
    return jnp.where(keep, x / jnp.asarray(1.0 - lora.dropout, x.dtype), jnp.zeros((), x.dtype))


def pooled(x: Array, group: int) -> Array:
    """``in / group`` times the mean of each group of neighbouring inputs (QA-LoRA, arXiv:2309.14717, as in PEFT).

    Args:
        x: [..., in].
        group: inputs per group; divides ``in``.

    Returns:
        [..., in / group].
    """
    groups = x.shape[-1] // group
    return jnp.mean(x.reshape(*x.shape[:-1], groups, group), axis=-1) * jnp.asarray(groups, x.dtype)


def apply_lora(x: Array, lora: Lora, key: Key | None = None, layer: Array | None = None) -> Array:
    """``scaling * (dropout(x) @ a @ b + bias)`` for one layer, in the dtype of ``x``.

    Args:
        x: ``[..., in]``.
        lora: factors without the layer axis, ``a_IR`` and ``b_RO``.
        key: for dropout; None switches dropout off.
        layer: int32 [], the layer's number; needed where layers have scalings of their own.

    Returns:
        ``[..., out]``.
    """
    return _low_rank(dropped(x, lora, key), lora) * lora.scale(layer).astype(x.dtype)


def _low_rank(x: Array, lora: Lora) -> Array:
    x = pooled(x, lora.group) if lora.group else x
    out = thin(thin(x, lora.a.astype(x.dtype)), lora.b.astype(x.dtype))
    return out if lora.bias is None else out + jnp.expand_dims(lora.bias, range(x.ndim - 1)).astype(x.dtype)


@jax.custom_vjp
def thin(x: Array, w: Array) -> Array:
    """``x @ w`` for a matrix with one short side; its gradient ``x^T dy`` transposes the narrower operand.

    Left to itself, JAX asks for the transpose of whichever comes second, and XLA's CPU compiler recomputes all that led
    to it column by column: a quarter of an update's time with adapters of rank 16.

    Args:
        x: [..., in].
        w: [in, out], of the same dtype.
    """
    return x @ w


def _thin_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, w = kept
    rows = tuple(range(x.ndim - 1))
    over_rows = functools.partial(jax.lax.dot_general, dimension_numbers=((rows, rows), ((), ())))
    dw = over_rows(x, dy) if w.shape[0] <= w.shape[1] else over_rows(dy, x).T
    return dy @ w.T, dw


thin.defvjp(lambda x, w: (x @ w, (x, w)), _thin_backward)


def apply_dora(
    x: Array,
    y: Array,
    w: Array | QTensor | MixedLayer,
    lora: Lora,
    key: Key | None = None,
    layer: Array | None = None,
) -> Array:
    """What DoRA adds to ``y = x @ w`` of one layer: ``m / |w + s a b| * (x @ (w + s a b)) - x @ w``.

    The norm is over the inputs of each output, and no gradient flows through it (Liu et al. 2024, arXiv:2402.09353,
    section 4.3).  With dropout the base's share is that of the dropped input, as in PEFT.

    Args:
        x: ``[..., in]``.
        y: ``x @ w``.
        w: the layer's weight.
        lora: without the layer axis, with a ``magnitude``.
        key: for dropout; None switches dropout off.
        layer: int32 [], the layer's number.

    Returns:
        ``[..., out]``, to be added to ``y``.
    """
    assert lora.magnitude is not None
    inputs, scale = dropped(x, lora, key), lora.scale(layer)
    base = y if inputs is x else matmul(inputs, w)
    frozen = jax.lax.stop_gradient((w, lora))
    norm = column_norms(dense(frozen[0], jnp.float32), frozen[1], scale)
    ratio = jnp.expand_dims(lora.magnitude.astype(jnp.float32) / norm, range(x.ndim - 1))
    # The difference from 1 is small: it is taken before anything is rounded to the dtype of x.
    return (ratio - 1.0).astype(x.dtype) * base + (ratio * scale).astype(x.dtype) * _low_rank(inputs, lora)


def column_norms(w: Array, lora: Lora, scale: Array) -> Array:
    """``|w + s a b|`` over the inputs of each output, float32 [out], of one layer."""
    return jnp.linalg.norm(w.astype(jnp.float32) + scale * product(lora), axis=0)


def product(lora: Lora) -> Array:
    """``a b`` as a matrix [..., in, out] in float32, that of averaged inputs spread over its groups; not scaled."""
    ab = lora.a.astype(jnp.float32) @ lora.b.astype(jnp.float32)
    if not lora.group:
        return ab
    return jnp.repeat(ab * jnp.float32(ab.shape[-2] / lora.group), lora.group, axis=-2)


@flax.struct.dataclass
class Ia3:
    """Factors of one linear layer's outputs, or inputs (Liu et al. 2022, arXiv:2205.05638).

    Attributes:
        scale: [L, out], or [L, in] where ``on_input``.
        on_input: whether the input is scaled (static).
    """

    scale: Array
    on_input: bool = flax.struct.field(pytree_node=False, default=False)


def apply_ia3(x: Array, ia3: Ia3) -> Array:
    """``scale * x`` for one layer (``scale`` without the layer axis), in the dtype of ``x``."""
    return x * jnp.expand_dims(ia3.scale, range(x.ndim - 1)).astype(x.dtype)
