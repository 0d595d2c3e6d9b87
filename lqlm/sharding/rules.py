"""Which part of which array lies on which device: one table of rules, by the leaves' names.

A mesh has the axes ``data`` (copies), ``fsdp`` (parts of the weights, brought together layer by layer) and ``tensor``
(parts of each product, Megatron-LM, arXiv:1909.08053); rows of a batch are split over ``data`` and ``fsdp``.  Maps into
heads and into the feed-forward width (q, k, v, gate, up) are split by their outputs over ``tensor``, the two maps back
(o, down) by their inputs, and ``fsdp`` splits the other dimension.  The axis of layers is never split.

What an axis does not divide is not split over that axis: each device of it holds a copy.  But where ``fsdp`` does not
divide its dimension of a map, it splits the other one further, if it divides that.  No head is split, and of a
quantized map no block: of a row layout whole blocks are counted (codes of 3 bits, whose bits lie apart, are not split
along the inputs), of a flat layout whole outputs that are whole blocks, and 8-bit maxima are split where whole
second-level blocks are.  So every device dequantizes what it holds by itself, to the same bits as one device would.

Optimizer state follows the adapters: a moment has its parameter's name at the end of its path, and its shape.  Maxima
of 8-bit moments are small and lie on every device.
"""

import functools
import re
from typing import Any, Protocol

import jax
from jax.sharding import PartitionSpec

from lqlm.layout import BATCH, FSDP, TENSOR, Axes, fit, parts
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.qtensor import QTensor
from lqlm.types import PyTree

BOTH = (TENSOR, FSDP)
_IN, _OUT = r"(q|k|v|gate|up)_proj", r"(o|down)_proj"
RULES: tuple[tuple[str, tuple[Axes, ...]], ...] = (
    (r"embed", (TENSOR, FSDP)),  # [V, D]
    (r"head", (FSDP, TENSOR)),  # [D, V]
    (_IN, (None, FSDP, TENSOR)),  # [L, in, out], dense or the codes of a row layout
    (_OUT, (None, TENSOR, FSDP)),
    (rf"{_IN}\.a", (None, FSDP)),  # [L, in, R]
    (rf"{_OUT}\.a", (None, BOTH)),
    (rf"{_IN}\.b", (None, None, BOTH)),  # [L, R, out]
    (rf"{_OUT}\.b", (None, None, FSDP)),
    (rf"{_IN}\.(magnitude|bias|scale)", (None, TENSOR)),  # [L, out]
    (rf"{_OUT}\.(magnitude|bias)", (None, FSDP)),
    (rf"{_OUT}\.scale", (None, TENSOR)),  # [L, in]: (IA)^3 scales the inputs of down
    (r"(q|k|v|up)_bias", (None, TENSOR)),
    (r"prompt", (None, FSDP)),  # [tokens, D]
    (r"prefix\.[kv]", (None, None, TENSOR)),  # [L, tokens, K * H]
    (r"[kv]_LBPKH", (None, BATCH, None, TENSOR)),  # keys and values of prompts
    (r"[kv]_LBGSKH", (None, BATCH, None, None, TENSOR)),  # and of samples
)
"""Pattern of the end of a leaf's path -> axes of its leading dimensions; what no pattern fits is on every device."""
_IN_HEADS = re.compile(r"(^|\.)((q|k|v|o)_proj|prefix|[qkv]_bias)(\.|$)")
_MIXED = re.compile(r"\.stacks\.\d+")


class Heads(Protocol):
    """What the rules must know of a model: `lqlm.models.config.ModelConfig` does."""

    @property
    def head_dim(self) -> int:
        """Width of one head, which is never split."""


def specs(sizes: dict[str, int], tree: PyTree, cfg: Heads) -> PyTree:
    """The rules applied to a tree.

    Args:
        sizes: devices along each axis.
        tree: base, adapters, training state or cache; leaves may be abstract.
        cfg: of the model.

    Returns:
        A tree of `PartitionSpec` of the same structure.

    >>> import types
    >>> lora = {"layers": {"o_proj": {"b": jax.ShapeDtypeStruct((2, 4, 12), "float32")}}}
    >>> found = specs({"fsdp": 4}, lora, types.SimpleNamespace(head_dim=6))
    >>> found["layers"]["o_proj"]["b"] == PartitionSpec(None, None, "fsdp")
    True
    """

    def one(path: Any, leaf: Any) -> PyTree:
        name = _MIXED.sub("", jax.tree_util.keystr(path, simple=True, separator="."))
        heads = head_unit(name, cfg)
        return _quantized(name, leaf, sizes, heads) if is_quantized(leaf) else array_spec(name, leaf, sizes, heads)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=is_quantized)


def head_unit(name: str, cfg: Heads) -> int:
    """Elements that ``tensor`` never parts: those of a head where a dimension is made of heads, else 1."""
    return cfg.head_dim if _IN_HEADS.search(name) else 1


def is_quantized(x: Any) -> bool:
    """Whether a node is a quantized weight."""
    return isinstance(x, QTensor)


@functools.cache
def rule_of(name: str) -> tuple[Axes, ...]:
    """The axes of the first rule that fits a path."""
    for pattern, axes in RULES:
        if re.search(rf"(^|\.){pattern}(\.codes)?$", name):
            return axes
    return ()


def _cut(axes: Axes, count: int, sizes: dict[str, int], heads: int) -> Axes:
    """The axes that divide so many elements; ``tensor`` must also divide the heads that they are."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    if TENSOR in names and (count % heads or fit(TENSOR, count // heads, sizes) is None):
        names = tuple(name for name in names if name != TENSOR)
    return fit(names, count, sizes)


def array_spec(name: str, x: Any, sizes: dict[str, int], heads: int) -> PartitionSpec:
    """The spec of one array by its path; ``heads`` is its :func:`head_unit`."""
    rule = rule_of(name)
    found = [_cut(axes, n, sizes, heads) for axes, n in zip(rule, x.shape)]
    if FSDP in rule and len(found) > 1 and FSDP not in found:
        other = next((k for k, axes in enumerate(rule) if axes == TENSOR), None)
        if other is not None:
            found[other] = _cut(BOTH, x.shape[other], sizes, heads)
    return PartitionSpec(*found)


def _quantized(name: str, q: QTensor, sizes: dict[str, int], heads: int) -> PyTree:
    """A `QTensor` of specs."""
    lead, (fan_in, fan_out) = (None,) * len(q.lead), q.shape
    inputs, outputs = cuts(name, q, sizes, heads)
    if q.rows:
        codes = PartitionSpec(*lead, inputs, outputs)
        flat = _flat_axes(outputs, FSDP if inputs == FSDP else None)
    else:
        flat = _flat_axes(outputs, FSDP)
        each = fan_out // parts(flat, sizes) if fan_out % parts(flat, sizes) == 0 else 0
        flat = flat if each and each * fan_in % q.config.block == 0 and q.config.bits != 3 else ()
        codes = PartitionSpec(*lead, flat or None)
    shift = None if q.shift is None else codes
    return q.replace(codes=codes, maxima=_maxima(q, codes, flat, sizes), shift=shift)  # type: ignore[attr-defined]


def _maxima(q: QTensor, codes: PartitionSpec, flat: tuple[str, ...], sizes: dict[str, int]) -> PyTree:
    """Of 32 bits they lie as the codes do; of 8 bits they are in the order of the outputs."""
    if not isinstance(q.maxima, DoubleQuantized):
        return codes
    while flat and q.maxima.codes.shape[-1] % (parts(flat, sizes) * q.maxima.block):
        flat = flat[:-1]
    lead = (None,) * len(q.lead)
    spec: Any = PartitionSpec(*lead, flat or None)
    return DoubleQuantized(spec, spec, PartitionSpec(*lead), q.maxima.block)  # type: ignore[arg-type]


def cuts(name: str, q: QTensor, sizes: dict[str, int], heads: int) -> tuple[Axes, Axes]:
    """Axes of inputs and of outputs of a quantized map, both in units that may be split."""
    (fan_in, fan_out), (_, wanted, outs) = q.shape, rule_of(name)

    def inputs(axes: Axes) -> Axes:
        whole = q.config.bits != 3 and q.rows
        return fit(_cut(axes, fan_in, sizes, heads), fan_in // q.config.block, sizes) if whole else None

    cut_in, cut_out = inputs(wanted), _cut(outs, fan_out, sizes, heads)
    if wanted == FSDP and cut_in is None:
        cut_out = _cut(BOTH, fan_out, sizes, heads)
    if outs == FSDP and cut_out is None:
        cut_in = inputs(BOTH)
    return cut_in, cut_out


def _flat_axes(outputs: Axes, more: Axes) -> tuple[str, ...]:
    """Axes of an array in the order of the outputs: those of the outputs, and one that cuts further."""
    names = (outputs,) if isinstance(outputs, str) else outputs or ()
    return names if more is None or more in names else (*names, str(more))
