"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): ``y = x @ w + scaling * dropout(x) @ a @ b``.

Adapters are a tree of their own, beside the base, so that an optimizer and a checkpoint never see the base.
"""

import dataclasses
import re

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.types import Array, Key, PyTree

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What to adapt: ``targets`` are regular expressions over the names of linear layers, or ``all-linear``."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject what would silently train nothing, or fail far from its cause."""
        if not self.targets:
            raise UserError(f"lora.targets is empty; choose among {', '.join(LINEARS)}, or {ALL_LINEAR}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"lora.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.dtype not in DTYPES:
            raise UserError(f"lora.dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}")

    @property
    def scaling(self) -> float:
        """``alpha / rank``."""
        return self.alpha / self.rank


@flax.struct.dataclass
class Lora:
    """The two factors of one linear layer, stacked over layers: ``a_LIR`` and ``b_LRO``."""

    a: Array
    b: Array
    scaling: float = flax.struct.field(pytree_node=False)
    dropout: float = flax.struct.field(pytree_node=False, default=0.0)


def target_names(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The linear layers that ``targets`` select, in the model's order.

    Raises:
        UserError: for a pattern that hits nothing, or that is no regular expression.

    >>> target_names(("[qv]_proj",))
    ('q_proj', 'v_proj')
    """
    hit: set[str] = set()
    for pattern in targets:
        names = LINEARS if pattern == ALL_LINEAR else [n for n in LINEARS if _compiled(pattern).fullmatch(n)]
        if not names:
            raise UserError(
                f"LoRA target {pattern!r} hits no linear layer; choose among {', '.join(LINEARS)}, or all-linear"
            )
        hit.update(names)
    return tuple(name for name in LINEARS if name in hit)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"LoRA target {pattern!r} is not a regular expression: {error}") from error


def linear_shape(w: Array | QTensor) -> tuple[int, int, int]:
    """``(L, in, out)`` of a stacked linear layer, quantized or not."""
    if isinstance(w, QTensor):
        return (jax.tree.leaves(w)[0].shape[0], *w.shape)
    return w.shape  # type: ignore[return-value]


def init_lora(key: Key, base: PyTree, cfg: LoraConfig) -> PyTree:
    """Fresh adapters, a no-op at first: ``a`` is Kaiming-uniform (a = sqrt 5, as PEFT's default), ``b`` is zero.

    Args:
        key: consumed.
        base: the model's tree; only shapes are read, so abstract leaves do as well.
        cfg: rank, alpha, dropout, targets and dtype.

    Returns:
        ``{"layers": {name: Lora(a [L, in, R], b [L, R, out])}}``.
    """
    names = target_names(cfg.targets)
    keys = jax.random.split(key, len(names))
    layers = {name: _init_one(k, linear_shape(base["layers"][name]), cfg) for name, k in zip(names, keys)}
    return {"layers": layers}


def _init_one(key: Key, shape: tuple[int, int, int], cfg: LoraConfig) -> Lora:
    layers, fan_in, fan_out = shape
    if not 0 < cfg.rank <= min(fan_in, fan_out):
        raise UserError(
            f"LoRA rank {cfg.rank} does not fit a {fan_in} x {fan_out} layer; choose 1 to {min(fan_in, fan_out)}"
        )
    bound = fan_in**-0.5
    dtype = jnp.dtype(cfg.dtype)
    a = jax.random.uniform(key, (layers, fan_in, cfg.rank), jnp.float32, -bound, bound).astype(dtype)
    return Lora(a, jnp.zeros((layers, cfg.rank, fan_out), dtype), cfg.scaling, cfg.dropout)


def apply_lora(x: Array, lora: Lora, key: Key | None = None) -> Array:
    """``scaling * dropout(x) @ a @ b`` for one layer, in the dtype of ``x``.

    Args:
        x: ``[..., in]``.
        lora: factors without the layer axis, ``a_IR`` and ``b_RO``.
        key: for dropout; None switches dropout off.

    Returns:
        ``[..., out]``.
    """
    if key is not None and lora.dropout > 0.0:
        keep = jax.random.bernoulli(key, 1.0 - lora.dropout, x.shape)
        x = jnp.where(keep, x / jnp.asarray(1.0 - lora.dropout, x.dtype), jnp.zeros((), x.dtype))
    hidden = x @ lora.a.astype(x.dtype)
    return hidden @ lora.b.astype(x.dtype) * jnp.asarray(lora.scaling, x.dtype)


def merge(base: PyTree, adapters: PyTree | None, dtype: jnp.dtype | None = None) -> PyTree:
    """A dense base with the adapters added in: ``dequantize(w) + scaling * a @ b``, for fast decoding.

    Args:
        base: the model's tree, quantized or dense.
        adapters: as from :func:`init_lora`, or None.
        dtype: of the merged linear layers; None keeps each layer's own.

    Returns:
        A tree of the same keys whose linear layers are arrays ``[L, in, out]``.
    """
    loras = {} if adapters is None else adapters["layers"]
    layers = {
        name: _merge_one(w, loras.get(name), dtype) if name in LINEARS else w for name, w in base["layers"].items()
    }
    return {**base, "layers": layers}


def _merge_one(w: Array | QTensor, lora: Lora | None, dtype: jnp.dtype | None) -> Array:
    dense = dequantize(w) if isinstance(w, QTensor) else w
    dtype = dense.dtype if dtype is None else dtype
    if lora is not None:
        delta = lora.scaling * (lora.a.astype(jnp.float32) @ lora.b.astype(jnp.float32))
        dense = dense.astype(jnp.float32) + delta
    return dense.astype(dtype)
