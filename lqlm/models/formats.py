"""The formats of a model's linear maps: what each would cost, which to take, and the base that holds them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import linears_of
from lqlm.adapters.taps import Tap
from lqlm.errors import UserError
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors
from lqlm.models.perplexity import window_nll
from lqlm.quant.budget import Format, allocate, format_bytes, format_errors, in_formats, label
from lqlm.quant.mixed import MixedStack, layers_of
from lqlm.quant.qtensor import QTensor, QuantConfig
from lqlm.trees import tree_bytes
from lqlm.types import Array, PyTree

Moments = Mapping[str, Tap]
"""For each linear map E[x_i^2] (``inputs``, [L, in]) and E[dy_o^2] (``outputs``, [L, out]), float32."""

Assignment = Mapping[str, Sequence[Format]]
"""For each linear map the format of every layer."""


class Place(NamedTuple):
    """One matrix of the model."""

    name: str
    layer: int


@dataclasses.dataclass(frozen=True)
class Table:
    """What every matrix costs in every format.

    Attributes:
        places: M matrices, layer by layer.
        shapes: (in, out) of each.
        formats: K formats.
        sizes: int64 [M, K], bytes.
        errors: float64 [M, K], weighted squared error.
    """

    places: tuple[Place, ...]
    shapes: tuple[tuple[int, int], ...]
    formats: tuple[Format, ...]
    sizes: np.ndarray
    errors: np.ndarray

    @property
    def parameters(self) -> int:
        """Weights of all matrices."""
        return sum(fan_in * fan_out for fan_in, fan_out in self.shapes)

    def choose(self, budget: int) -> dict[str, list[Format]]:
        """The assignment of least error within a budget of bytes, see :func:`lqlm.quant.budget.allocate`."""
        chosen = allocate(self.sizes, self.errors, budget)
        found: dict[str, list[Format]] = {}
        for place, k in zip(self.places, chosen):
            found.setdefault(place.name, []).append(self.formats[k])
        return found


def moments(base: PyTree, tokens_BT: Array, cfg: ModelConfig, *, chunk: int = 512) -> dict[str, Tap]:
    """Second moments of what goes into each linear map, and of the loss's gradient at what comes out.

    The loss is the negative log-likelihood of the windows, summed over their tokens.

    Args:
        base: weights, dense or quantized.
        tokens_BT: int32 calibration windows, without padding.
        cfg: the model's shape.
        chunk: tokens whose logits are held at once.

    Returns:
        For each linear map E[x_i^2] in ``inputs`` [L, in] and E[dy_o^2] in ``outputs`` [L, out], means over tokens.
    """

    def tap(name: str) -> Tap:
        layers, fan_in, fan_out = layers_of(base["layers"][name])
        return Tap(jnp.zeros((layers, fan_in)), jnp.zeros((layers, fan_out)))

    def loss(taps: PyTree) -> Array:
        return jnp.sum(window_nll(base, taps, tokens_BT, cfg, chunk=chunk, remat="full"))

    sums = jax.grad(loss)({"layers": {name: tap(name) for name in linears_of(base["layers"])}})
    return jax.tree.map(lambda total: total / tokens_BT.size, sums["layers"])


def tabulate(base: PyTree, formats: Sequence[Format], found: Moments | None, *, outputs: bool = True) -> Table:
    """Bytes and errors of every linear map of a dense base in every format.

    Args:
        base: its linear maps dense, [L, in, out].
        formats: to consider.
        found: from :func:`moments`; None weighs all entries alike.
        outputs: weigh by the gradient at the outputs too.  By the inputs alone each matrix's error is divided by the
            power of its outputs: inputs of one map may be a thousand times those of another, and say nothing of how
            much the loss minds.

    Returns:
        A `Table`.

    Raises:
        UserError: when a linear map of the base is quantized already.
    """
    columns: dict[Place, tuple[tuple[int, int], list[float]]] = {}
    for name in linears_of(base["layers"]):
        w = _dense_stack(base, name)
        taps = None if found is None else found[name]
        weights = (None, None) if taps is None else (taps.inputs, taps.outputs if outputs else None)
        errors = np.stack([np.asarray(format_errors(w, fmt, *weights)) for fmt in formats], axis=1).astype(np.float64)
        if taps is not None and not outputs:
            errors /= np.maximum(np.asarray(output_power(w, taps.inputs), np.float64)[:, None], 1e-30)
        for layer, row in enumerate(errors.tolist()):
            columns[Place(name, layer)] = ((w.shape[1], w.shape[2]), row)
    places = tuple(sorted(columns, key=lambda place: place.layer))
    shapes = tuple(columns[place][0] for place in places)
    sizes = np.array([[format_bytes(shape, fmt) for fmt in formats] for shape in shapes], np.int64)
    return Table(places, shapes, tuple(formats), sizes, np.array([columns[place][1] for place in places]))


@jax.jit
def output_power(w: Array, inputs: Array) -> Array:
    """``sum_{io} E[x_i^2] w_{io}^2`` of each layer: the power of the outputs, were the inputs uncorrelated.

    Args:
        w: [L, in, out].
        inputs: [L, in] mean squares.

    Returns:
        float32 [L].
    """
    return jnp.einsum("li,lio->l", inputs.astype(jnp.float32), jnp.square(w.astype(jnp.float32)))


def _dense_stack(base: PyTree, name: str) -> Array:
    w = base["layers"][name]
    if isinstance(w, QTensor | MixedStack):
        raise UserError(f"{name} is quantized already; start from the unquantized model")
    return w


def uniform(cfg: ModelConfig, fmt: Format) -> dict[str, list[Format]]:
    """The assignment that gives every matrix the same format."""
    return {name: [fmt] * cfg.layers for name in linears_of(layer_tensors(cfg))}


def apply_formats(base: PyTree, assignment: Assignment) -> PyTree:
    """The base with each linear map in its formats; all else is kept.

    Args:
        base: its linear maps dense.
        assignment: for each linear map the format of every layer.

    Returns:
        The base tree; a map whose layers differ is a :class:`~lqlm.quant.mixed.MixedStack`.
    """
    dtype = base["embed"].dtype
    held = {name: in_formats(_dense_stack(base, name), formats, dtype) for name, formats in assignment.items()}
    return {**base, "layers": {**base["layers"], **held}}


def formats_of(base: PyTree) -> dict[str, list[Format]]:
    """The format of every layer of each linear map, as the base holds it; the inverse of :func:`apply_formats`."""
    return {name: [_format(part) for part in _parts(base["layers"][name])] for name in linears_of(base["layers"])}


def _parts(w: MixedStack | QTensor | Array) -> list[QTensor | Array]:
    return [w.stacks[kind] for kind in w.kinds] if isinstance(w, MixedStack) else [w] * layers_of(w)[0]


def _format(w: QTensor | Array) -> QuantConfig | None:
    return w.config if isinstance(w, QTensor) else None


def linear_bytes(base: PyTree) -> int:
    """Bytes of all linear maps, as they are held."""
    return tree_bytes([base["layers"][name] for name in linears_of(base["layers"])])


def labels(assignment: Assignment) -> dict[str, list[str]]:
    """The names of the formats of an assignment."""
    return {name: [label(fmt) for fmt in formats] for name, formats in assignment.items()}
