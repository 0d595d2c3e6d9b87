"""Stacks of 16-bit floats as their bits.

XLA's CPU backend multiplies bfloat16 after widening it, and lifts the widening out of a loop over layers: the whole
stack in float32, at every step.  It cannot widen integers, so that one layer at a time is.
"""

import jax
import jax.numpy as jnp

from lqlm.types import PyTree


def as_bits(tree: PyTree) -> PyTree:
    """The bfloat16 arrays of a tree as uint16, all else as it is.  The bits have no derivative."""
    return jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x, tree)


def from_bits(tree: PyTree) -> PyTree:
    """Undo :func:`as_bits`: every uint16 array of a tree is bfloat16 again."""
    return jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x, tree)
