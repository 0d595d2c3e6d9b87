"""Adapters merged into the base, with what that costs in precision, and taken out again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import BIASES, LINEARS, linears_of
from lqlm.adapters.lora import Ia3, Lora, column_norms, product
from lqlm.errors import UserError
from lqlm.quant.mixed import MixedStack, dense, dtype_of
from lqlm.quant.qtensor import QTensor, QuantConfig, quantize
from lqlm.types import Array, PyTree

Weight = Array | QTensor | MixedStack


class Merged(NamedTuple):
    """A merged base, the base that it was made of, and the precision that was lost.

    Attributes:
        base: with the adapters in it.
        original: the base before, its own arrays: :func:`unmerge` gives it back bit for bit.
        error: for each linear layer, float32 [L]: RMS of what rounding (or quantizing again) changed, over the RMS of
            what the adapter changed; 1 means that as much was lost as was learned (0 where nothing was lost, infinite
            or very large where nothing was learned).
    """

    base: PyTree
    original: PyTree
    error: dict[str, Array]


def merge(base: PyTree, adapters: PyTree | None, dtype: jnp.dtype | None = None) -> PyTree:
    """A dense base with the adapters added in, computed in float32: ``dequantize(w) + scaling * a @ b`` for LoRA.

    Args:
        base: the model's tree, quantized or dense.
        adapters: of linear layers, or None.
        dtype: of the merged linear layers; None keeps each layer's own.

    Returns:
        A tree of the same keys whose linear layers are arrays ``[L, in, out]``.

    Raises:
        UserError: for adapters that are not weights: virtual tokens, or a bias where the layer has no place for one.
    """
    found = _of_linears(adapters)
    old = _with_biases(base, adapters)
    layers = {n: _merge_one(w, found.get(n), dtype) if n in LINEARS else w for n, w in old.items()}
    return {**base, "layers": layers | _biases(old, found)}


def _with_biases(base: PyTree, adapters: PyTree | None) -> PyTree:
    """The base's layers with the biases that were trained, in the dtypes of the base."""
    trained = {} if adapters is None else adapters.get("biases", {})
    return base["layers"] | {name: bias.astype(base["layers"][name].dtype) for name, bias in trained.items()}


def _of_linears(adapters: PyTree | None) -> dict[str, Lora | Ia3]:
    for kind in {} if adapters is None else adapters:
        if kind not in ("layers", "biases"):
            raise UserError(f"adapters of kind {kind!r} cannot be added to weights; use them beside the base instead")
    return {} if adapters is None else adapters.get("layers", {})


def _merge_one(w: Weight, adapter: Lora | Ia3 | None, dtype: jnp.dtype | None) -> Array:
    if adapter is None:
        return dense(w, dtype)
    return merged_weight(dense(w, jnp.float32), adapter).astype(dtype_of(w) if dtype is None else dtype)


def merged_weight(w: Array, adapter: Lora | Ia3) -> Array:
    """The weight that computes what base and adapter do together, float32 [L, in, out], of dense ``w``."""
    wide = w.astype(jnp.float32)
    if isinstance(adapter, Ia3):
        scale = adapter.scale.astype(jnp.float32)
        return wide * (scale[:, :, None] if adapter.on_input else scale[:, None, :])
    merged = wide + adapter.scalings[:, None, None] * product(adapter)
    if adapter.magnitude is None:
        return merged
    scalings = jnp.broadcast_to(jnp.asarray(adapter.scalings), len(wide))
    bare = adapter.replace(scaling=1.0)  # type: ignore[attr-defined]
    norms = jax.vmap(column_norms)(wide, bare, scalings)
    return merged * (adapter.magnitude.astype(jnp.float32) / norms)[:, None, :]


def _biases(layers: PyTree, found: dict[str, Lora | Ia3]) -> PyTree:
    """The biases that change: scaled by (IA)^3, shifted by a bias of the adapter."""
    changed = {}
    for name, adapter in found.items():
        key = BIASES.get(name, "")
        if isinstance(adapter, Ia3):
            if key in layers and not adapter.on_input:
                changed[key] = (layers[key].astype(jnp.float32) * adapter.scale.astype(jnp.float32)).astype(
                    layers[key].dtype
                )
        elif adapter.bias is not None:
            if key not in layers:
                raise UserError(f"{name}: the adapter has a bias and the layer has none; it cannot be merged")
            shift = adapter.scalings[:, None] * adapter.bias.astype(jnp.float32)
            changed[key] = (layers[key].astype(jnp.float32) + shift).astype(layers[key].dtype)
    return changed


def merge_reported(
    base: PyTree, adapters: PyTree, dtype: jnp.dtype | None = None, quant: QuantConfig | None = None
) -> Merged:
    """Merge, and measure what rounding to ``dtype``, or quantizing again, loses.

    Args:
        base: the model's tree; it is kept.
        adapters: of linear layers.
        dtype: of the merged linear layers.
        quant: quantize the adapted layers again, which loses most of what few steps have learned, and leave the others
            as they are; None makes all of them dense.

    Returns:
        A :class:`Merged`.
    """
    rounded, adapted = merge(base, adapters, dtype), _of_linears(adapters)
    layers, error = dict(rounded["layers"]), {}
    for name in linears_of(base["layers"]):
        before = base["layers"][name]
        if name in adapted:
            exact = _merge_one(before, adapted[name], jnp.dtype("float32"))
            layers[name] = layers[name] if quant is None else quantize(exact, quant, layers[name].dtype)
            error[name] = _lost(before, exact, layers[name])
        elif quant is not None:
            layers[name] = before
    return Merged({**rounded, "layers": layers}, base, error)


def _lost(before: Weight, exact: Array, rounded: Array | QTensor) -> Array:
    rms = lambda x: jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2)))  # noqa: E731
    learned = rms(exact - dense(before, jnp.float32))
    return rms(dense(rounded, jnp.float32) - exact) / jnp.maximum(learned, jnp.finfo(jnp.float32).tiny)


def unmerge(merged: Merged) -> PyTree:
    """The base as it was before :func:`merge_reported`, bit for bit: it never went through a subtraction."""
    return merged.original


def merge_groups(base: PyTree, adapters: PyTree) -> PyTree:
    """Group-wise adapters merged into the shifts of a quantized base, without loss: no code changes.

    ``shift_{go} += s * (in / group) / group * (a b)_{go}``; Xu et al. 2023, arXiv:2309.14717, section 3.3.

    Args:
        base: with adapted layers quantized in blocks whose size divides the adapters' group; where formats are mixed,
            layers that are dense get the product itself.
        adapters: LoRA with ``group``.

    Returns:
        The base with new shifts, float32.

    Raises:
        UserError: where adapter and layer do not fit together.
    """
    layers, found = _with_biases(base, adapters), _of_linears(adapters)
    for name in (name for name in LINEARS if name in found):
        adapter = found[name]
        if not isinstance(adapter, Lora) or not adapter.group or adapter.bias is not None:
            raise UserError(f"{name}: only group-wise LoRA (lora.group) without a bias merges into shifts; use merge")
        w = layers[name]
        layers[name] = _shifted_each(name, w, adapter) if isinstance(w, MixedStack) else _shifted(name, w, adapter)
    return {**base, "layers": layers}


def _shifted(name: str, w: Array | QTensor, lora: Lora) -> QTensor:
    if not isinstance(w, QTensor) or not w.rows or lora.group % w.config.block:
        raise UserError(
            f"{name}: a group of {lora.group} needs a weight quantized in blocks that divide it (and the inputs)"
        )
    ab = lora.a.astype(jnp.float32) @ lora.b.astype(jnp.float32) * jnp.float32(lora.a.shape[1] / lora.group)
    shift = jnp.repeat(ab * lora.scalings[:, None, None], lora.group // w.config.block, axis=1)
    return w.replace(shift=shift if w.shift is None else w.shift + shift)  # type: ignore[attr-defined]


def _shifted_each(name: str, w: MixedStack, lora: Lora) -> MixedStack:
    """The stack of each format, with its layers' share of the adapter."""

    def one(kind: int, stack: QTensor | Array) -> QTensor | Array:
        chosen = [layer for layer, found in enumerate(w.kinds) if found == kind]
        scaling = lora.scaling if isinstance(lora.scaling, float) else tuple(lora.scaling[layer] for layer in chosen)
        own = Lora(lora.a[np.array(chosen)], lora.b[np.array(chosen)], scaling, group=lora.group)
        return _shifted(name, stack, own) if isinstance(stack, QTensor) else _merge_one(stack, own, None)

    return w.replace(stacks=tuple(one(kind, stack) for kind, stack in enumerate(w.stacks)))  # type: ignore[attr-defined]
