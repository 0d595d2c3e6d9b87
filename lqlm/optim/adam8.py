"""AdamW whose moments are held in 8 bits between updates.

Dettmers et al. 2021, 8-bit Optimizers via Block-wise Quantization, https://arxiv.org/abs/2110.02861.  A moment of n
values takes n + 4 * n / 256 bytes instead of 4 * n.  An update dequantizes, computes in float32 and quantizes again;
what the parameters get is computed before the second rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lqlm.optim.precision import in_float32
from lqlm.order import never
from lqlm.quant.blockwise import code_of_zero, dequantize_blockwise, quantize_blockwise
from lqlm.quant.codebooks import dynamic_map
from lqlm.types import Array, PyTree

BLOCK = 256
"""Values that share a maximum, as in the paper and in bitsandbytes."""


class Moment8(NamedTuple):
    """A moment of one parameter in 8 bits.

    Attributes:
      codes: uint8 of the parameter's shape.
      absmax: float32 [blocks]; [L, blocks] where the parameter is stacked, that is, has three axes or more: no block
        holds values of two layers, so that a layer's moments are a slice of both arrays.
    """

    codes: Array
    absmax: Array


class ScaleByAdam8State(NamedTuple):
    """Adam's state: `Moment8` where the moment is in 8 bits, float32 where it is not.

    Attributes:
      count: int32 [], updates so far.
      mu: first moments, codes of the signed dynamic map.
      nu: second moments, codes of the unsigned one.
    """

    count: Array  # type: ignore[assignment]
    mu: PyTree
    nu: PyTree


def _layers(shape: Sequence[int]) -> int:
    """How many parts of an array are quantized each by itself."""
    return shape[0] if len(shape) >= 3 else 1


def zero_moment(x: Array, *, signed: bool, min_size: int = 4096) -> Moment8 | Array:
    """The moment of a parameter before the first update.

    Args:
      x: the parameter.
      signed: first moment, else second.
      min_size: parameters of fewer elements, or of fewer elements per layer if stacked, have float32 moments.

    Returns:
      `Moment8`, or float32 of the shape of ``x``.
    """
    layers = _layers(x.shape)
    size = x.size // max(layers, 1)
    if size < min_size:
        return jnp.zeros(x.shape, jnp.float32)
    blocks = -(-size // BLOCK)
    absmax = jnp.zeros((layers, blocks) if x.ndim >= 3 else (blocks,), jnp.float32)
    return Moment8(jnp.full(x.shape, code_of_zero(dynamic_map(signed)), jnp.uint8), absmax)


def quantize_moment(x: Array, *, signed: bool) -> tuple[Array, Array]:
    """Quantize to the nearest code, except that no positive second moment becomes zero.

    A parameter whose gradients are small beside those of its block has ``nu / absmax`` below half of the smallest code,
    3.25e-7.  Were it rounded to zero while its first moment is not, the next update would divide by ``eps`` alone: a
    step of ``mu / eps``, which may be a million times the right one.  It gets the smallest code instead, which errs
    towards a shorter step.

    Args:
      x: float32 [n], a first moment, or a second one (not negative).
      signed: which of them.

    Returns:
      codes uint8 [n], and block maxima float32 [ceil(n / 256)].
    """
    codes, absmax = quantize_blockwise(x, dynamic_map(signed), BLOCK)
    return codes if signed else jnp.where(x > 0, jnp.maximum(codes, jnp.uint8(1)), codes), absmax


def dequantize_moment(codes: Array, absmax: Array, *, signed: bool) -> Array:
    """Undo `quantize_moment`: float32 [n]."""
    return dequantize_blockwise(codes, absmax, dynamic_map(signed), BLOCK)


def _map_layers(function: Callable[..., PyTree], xs: PyTree, before: Array) -> PyTree:
    """`jax.lax.map`, whose results take memory only after ``before`` has been computed."""

    def write(stacks: PyTree, x: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        index, layer = x
        out = function(*layer)
        return jax.tree.map(lambda s, y: jax.lax.dynamic_update_index_in_dim(s, y, index, 0), stacks, out), None

    count = jax.tree.leaves(xs)[0].shape[0]
    shapes = jax.eval_shape(function, *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs))
    # Zeros that the compiler does not know to be zeros: it would make those of all parameters at the start.
    start = jax.tree.map(lambda y: jnp.broadcast_to(never(before).astype(y.dtype), (count, *y.shape)), shapes)
    return jax.lax.scan(write, start, (jnp.arange(count), xs))[0]


def update_moments(g: Array, mu: Array, nu: Array, b1: float, b2: float) -> tuple[Array, Array]:
    """``b1 mu + (1 - b1) g`` and ``b2 nu + (1 - b2) g^2``."""
    return b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * jnp.square(g)


def scale_by_adam8(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, min_size: int = 4096
) -> optax.GradientTransformation:
    """``mu_hat / (sqrt(nu_hat) + eps)`` as `optax.scale_by_adam`, with moments in 8 bits.

    ``mu = b1 mu + (1 - b1) g``, ``nu = b2 nu + (1 - b2) g^2``, ``mu_hat = mu / (1 - b1^t)``,
    ``nu_hat = nu / (1 - b2^t)`` (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980).  Zero has a code of its own in
    both maps, so that a parameter whose gradient was always zero never moves.  Layers are updated one after the other,
    so that the float32 moments of one layer only exist at a time.

    Args:
      b1: decay of the first moment.
      b2: decay of the second.
      eps: added to the root of the second.
      min_size: see `zero_moment`.

    Returns:
      An optax transformation with `ScaleByAdam8State`, elementwise along a leading axis of layers; its updates are
      float32.
    """

    def init(params: PyTree) -> ScaleByAdam8State:
        def zeros(signed: bool) -> PyTree:
            return jax.tree.map(lambda x: zero_moment(x, signed=signed, min_size=min_size), params)

        return ScaleByAdam8State(jnp.zeros((), jnp.int32), zeros(True), zeros(False))

    def update(updates: PyTree, state: ScaleByAdam8State, params: PyTree = None) -> tuple[PyTree, ScaleByAdam8State]:
        count = optax.safe_increment(state.count)
        # Products with reciprocals rather than divisions: the compiler turns one into the other as it sees fit.
        unbias1, unbias2 = (1 / (1 - jnp.float32(b) ** count.astype(jnp.float32)) for b in (b1, b2))

        def adam(g: Array, mu: Array, nu: Array) -> tuple[Array, Array, Array]:
            mu, nu = update_moments(g.astype(jnp.float32), mu, nu, b1, b2)
            return mu * unbias1 / (jnp.sqrt(nu * unbias2) + eps), mu, nu

        def layer(g: Array, mu: Moment8, nu: Moment8) -> tuple[Array, Any, Any]:
            out, *new = adam(g, dequantize_moment(*mu, signed=True), dequantize_moment(*nu, signed=False))
            return out, Moment8(*quantize_moment(new[0], signed=True)), Moment8(*quantize_moment(new[1], signed=False))

        def leaf(before: Array, g: Array, mu: Any, nu: Any) -> tuple[Array, Any, Any]:
            if not isinstance(mu, Moment8):
                return adam(g, mu, nu)
            rows = jax.tree.map(lambda x: x.reshape(_layers(g.shape), -1), (g, mu, nu))
            out = _map_layers(layer, rows, before)
            return jax.tree.map(lambda new, like: new.reshape(like.shape), out, (g, mu, nu))

        treedef: Any = jax.tree.structure(updates)
        trees = updates, state.mu, state.nu
        out: list[tuple[Array, Any, Any]] = []
        for each in zip(*(treedef.flatten_up_to(tree) for tree in trees), strict=True):
            out.append(leaf(out[-1][0] if out else each[0], *each))  # after the gradient, one leaf after the other
        directions, mu, nu = (treedef.unflatten([each[k] for each in out]) for k in range(3))
        return directions, ScaleByAdam8State(count, mu, nu)

    return optax.GradientTransformation(init, update)


def adamw8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    *,
    min_size: int = 4096,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv:1711.05101) with blockwise 8-bit moments; takes the place of `optax.adamw`.

    Args:
      learning_rate: a number, or a function of the count of updates.
      b1: decay of the first moment.
      b2: decay of the second.
      eps: added to the root of the second.
      weight_decay: times the learning rate, of the parameter, per update.
      min_size: see `zero_moment`.

    Returns:
      An optax transformation; arithmetic and updates are float32 for parameters of any floating dtype.

    >>> state = adamw8bit(1e-3).init({"w": jnp.zeros((64, 64)), "bias": jnp.zeros(64)})
    >>> state[0].mu["w"].codes.dtype, state[0].mu["w"].absmax.shape, state[0].mu["bias"].dtype
    (dtype('uint8'), (16,), dtype('float32'))
    """
    return in_float32(
        optax.chain(
            scale_by_adam8(b1, b2, eps, min_size=min_size),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
