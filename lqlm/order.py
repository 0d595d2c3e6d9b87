"""When a large array is computed: not before something else is there.

Compilers compute early what depends on little, merge what is computed twice, and lift what does not change out of
loops.  For a weight dequantized from its codes each of the three keeps the dense array alive.  An optimization barrier
says so to XLA on an accelerator; on the CPU backend barriers are dropped first (jax 0.10), so that a dependency has to
be made that no compiler can see through.
"""

import jax
import jax.numpy as jnp

from lqlm.types import Array, PyTree


def after(tree: PyTree, value: Array) -> PyTree:
    """The same tree, bit for bit, in a form that cannot be computed with before ``value`` has been computed.

    Args:
        tree: arrays of numbers.
        value: floating, of any shape.

    Returns:
        ``tree``.

    >>> print(after(jnp.arange(3), jnp.array([jnp.nan])))
    [0 1 2]
    """
    if value.size == 0:
        return tree
    return jax.lax.platform_dependent(tree, value, cpu=_behind_a_choice, default=_behind_a_barrier)


def never(value: Array) -> Array:
    """False, bool [], whatever the floating value; compilers do not know it, because 0 * x may be NaN."""
    first = jax.lax.stop_gradient(value[(0,) * value.ndim])
    return first * jnp.zeros((), value.dtype) > jnp.ones((), value.dtype)


def _behind_a_choice(tree: PyTree, value: Array) -> PyTree:
    no = never(value)
    return jax.tree.map(lambda x: jnp.where(no, jnp.zeros((), x.dtype), x), tree)


def _behind_a_barrier(tree: PyTree, value: Array) -> PyTree:
    return jax.lax.optimization_barrier((tree, value))[0]
