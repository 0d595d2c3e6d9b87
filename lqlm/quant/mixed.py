"""Layers of one linear map, each in a format of its own: the bits lie where they matter (arXiv:2311.12023).

A scan slices stacks whose layers all look alike.  Layers of different formats cannot be stacked; here those of each
format are, and a layer is picked by its number when the scan comes to it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.types import Array


@flax.struct.dataclass
class MixedStack:
    """L matrices [in, out] in several formats.

    Attributes:
        stacks: for each format its layers, [L_k, ...], a :class:`QTensor` or a dense array.
        kinds: for each layer the index of its format (static).
    """

    stacks: tuple[QTensor | Array, ...]
    kinds: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out) of one matrix."""
        fan_in, fan_out = self.stacks[0].shape[-2:]
        return fan_in, fan_out

    @property
    def slots(self) -> tuple[int, ...]:
        """For each layer its place in the stack of its format."""
        return tuple(self.kinds[:layer].count(kind) for layer, kind in enumerate(self.kinds))

    def at(self, layer: Array) -> "MixedLayer":
        """One layer, by its number (int32 [], traced or not)."""
        pick = lambda values: jnp.asarray(np.array(values, np.int32))[layer]  # noqa: E731
        return MixedLayer(self.stacks, pick(self.kinds), pick(self.slots))


@flax.struct.dataclass
class MixedLayer:
    """One matrix of a :class:`MixedStack`: which stack, and which entry of it."""

    stacks: tuple[QTensor | Array, ...]
    kind: Array
    slot: Array


def mixed_stack(layers: Sequence[QTensor | Array]) -> MixedStack | QTensor | Array:
    """Stack the layers of one linear map: plainly where all are of one format, else by format.

    Args:
        layers: matrices [in, out], without leading axes.

    Returns:
        An array or a :class:`QTensor` of L layers, or a :class:`MixedStack`.
    """
    formats: list[Any] = []
    for w in layers:
        if _format(w) not in formats:
            formats.append(_format(w))
    kinds = tuple(formats.index(_format(w)) for w in layers)
    stacks = tuple(_stacked([w for w, k in zip(layers, kinds) if k == kind]) for kind in range(len(formats)))
    return stacks[0] if len(stacks) == 1 else MixedStack(stacks, kinds)


def _format(w: QTensor | Array) -> Any:
    return (w.config, w.dtype, w.shift is None) if isinstance(w, QTensor) else w.dtype


def _stacked(matrices: Sequence[QTensor | Array]) -> QTensor | Array:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *matrices)


def unstack(w: MixedStack | QTensor | Array) -> list[QTensor | Array]:
    """The layers of a linear map as single matrices; the inverse of :func:`mixed_stack`."""
    if isinstance(w, MixedStack):
        return [_entry(w.stacks[kind], slot) for kind, slot in zip(w.kinds, w.slots)]
    return [_entry(w, layer) for layer in range(jax.tree.leaves(w)[0].shape[0])]


def _entry(stack: QTensor | Array, index: int | Array) -> QTensor | Array:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), stack)


def choose(w: MixedLayer, branch: Callable[[QTensor | Array, Any], Array], operand: Any) -> Array:
    """``branch(matrix, operand)`` with the matrix in the format that the layer has; one program for each format."""
    branches = [lambda slot, operand, stack=stack: branch(_entry(stack, slot), operand) for stack in w.stacks]
    return jax.lax.switch(w.kind, branches, w.slot, operand)


def dense(w: MixedStack | MixedLayer | QTensor | Array, dtype: jnp.dtype | None = None) -> Array:
    """The weights as an array, whatever holds them.

    Args:
        w: one matrix or a stack.
        dtype: of the result; None keeps that of the weight (for several formats: of the first quantized one).

    Returns:
        [..., in, out].
    """
    if isinstance(w, MixedLayer):
        dtype = dtype_of(w) if dtype is None else dtype
        return choose(w, lambda matrix, _: dense(matrix, dtype), None)
    if isinstance(w, MixedStack):
        dtype = dtype_of(w) if dtype is None else dtype
        order = np.argsort(np.array(w.kinds), kind="stable")  # layers by format, as concatenated
        return jnp.concatenate([dense(stack, dtype) for stack in w.stacks])[np.argsort(order)]
    if isinstance(w, QTensor):
        return dequantize(w, dtype)
    return w if dtype is None else w.astype(dtype)


def dtype_of(w: MixedStack | MixedLayer | QTensor | Array) -> Any:
    """What a weight is dequantized into; of several formats, a layer kept in 16 bits must not round the others."""
    stacks = w.stacks if isinstance(w, MixedStack | MixedLayer) else (w,)
    return next((one.dtype for one in stacks if isinstance(one, QTensor)), stacks[0].dtype)


def layers_of(w: MixedStack | QTensor | Array) -> tuple[int, int, int]:
    """``(L, in, out)`` of a stacked linear map; its leaves may be abstract."""
    count = len(w.kinds) if isinstance(w, MixedStack) else jax.tree.leaves(w)[0].shape[0]
    fan_in, fan_out = w.shape[-2:]
    return count, fan_in, fan_out
