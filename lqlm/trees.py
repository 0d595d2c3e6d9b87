"""Questions asked of whole pytrees, and where their leaves lie."""

import jax
import jax.numpy as jnp

from lqlm.order import after
from lqlm.types import Array, PyTree


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays of a tree, counted from their shapes and types (so abstract arrays count too).

    >>> tree_bytes({"a": jnp.zeros((2, 3)), "b": jnp.zeros(5, jnp.uint8)})
    29
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def global_norm(tree: PyTree) -> Array:
    """Euclidean norm of all elements of a tree together, ``sqrt(sum_i x_i^2)``; not finite where any element is not.

    Returns:
      float32 [].

    >>> print(global_norm({"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}))
    5.0
    """
    total = jnp.float32(0.0)
    for x in jax.tree.leaves(tree):  # one after the other, or the float32 forms of all leaves may be held at once
        total = total + jnp.sum(jnp.square(after(x, total).astype(jnp.float32)))
    return jnp.sqrt(total)


def commit(tree: PyTree) -> PyTree:
    """Pin every array to the device and the memory that it already lies in.

    A jitted step returns committed arrays.  Were its first arguments not so, its second call would compile again.
    """
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding), tree)
