"""Adapters that change nothing, and whose gradient is a statistic of what flows through a linear map.

A tap stands where an adapter may stand, so that the model's own ``forward`` gathers the statistics, of dense and of
quantized bases, stacked over layers by the scan that is there anyway.
"""

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.types import Array


@flax.struct.dataclass
class Tap:
    """Taps of one linear map; the values are not looked at.

    Attributes:
        inputs: float32 [..., in]; its "gradient" is the sum of x_i^2 over all tokens.
        outputs: float32 [..., out]; its "gradient" is the sum of (dL/dy_o)^2 over all tokens.
    """

    inputs: Array
    outputs: Array


@jax.custom_vjp
def tap_input(x: Array, tap: Array) -> Array:
    """``x`` itself; backward, the tap's cotangent is ``sum_t x_t^2``.

    Args:
        x: floating [..., in].
        tap: float32 [in].

    >>> jax.grad(lambda tap: tap_input(jnp.array([[1.0, 2.0], [3.0, 0.0]]), tap).sum())(jnp.zeros(2)).tolist()
    [10.0, 4.0]
    """
    return x


@jax.custom_vjp
def tap_output(y: Array, tap: Array) -> Array:
    """``y`` itself; backward, the tap's cotangent is ``sum_t (dL/dy_t)^2``.

    Args:
        y: floating [..., out].
        tap: float32 [out].

    >>> jax.grad(lambda tap: (tap_output(jnp.ones((3, 2)), tap) * jnp.array([[1.0, 2.0]])).sum())(jnp.zeros(2)).tolist()
    [3.0, 12.0]
    """
    return y


def _squares(x: Array) -> Array:
    return jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(x.ndim - 1)))


tap_input.defvjp(lambda x, tap: (x, _squares(x)), lambda squares, dx: (dx, squares))
tap_output.defvjp(lambda y, tap: (y, None), lambda _, dy: (dy, _squares(dy)))
