"""A tree of arrays as ``{leaf path: numpy array}``, and back into a target's types, shardings and memory kinds."""

import zlib
from typing import Any

import jax
import numpy as np

from lqlm.sharding import put, whole
from lqlm.types import PyTree


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, in the tree's order.

    >>> named_leaves({"opt": (1, {"mu": 2})})
    {'opt.0': 1, 'opt.1.mu': 2}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "state": leaf for path, leaf in flat}


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Copies on the host by leaf path; a typed PRNG key becomes its raw uint32 words.

    What is split over several hosts is brought together on each: all of them call it.
    """
    return {
        path: np.asarray(whole(jax.random.key_data(leaf) if _is_key(leaf) else leaf))
        for path, leaf in named_leaves(tree).items()
    }


def describe(tree: PyTree) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype that :func:`to_arrays` would give each leaf, of a tree that may be abstract."""
    named = named_leaves(tree)
    stored = {p: jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for p, leaf in named.items()}
    return {p: (np.shape(leaf), np.dtype(getattr(leaf, "dtype", np.asarray(leaf).dtype))) for p, leaf in stored.items()}


def from_arrays(arrays: dict[str, np.ndarray], target: PyTree) -> PyTree:
    """The inverse of :func:`to_arrays`.

    Args:
        arrays: one of the described shape and dtype for each leaf of ``target``.
        target: leaves are arrays, ``jax.ShapeDtypeStruct`` or numbers; each says what its array becomes.  A sharding
            is kept with its memory kind; a leaf without one, or never committed to one, gets an uncommitted array.

    Returns:
        A tree of ``target``'s structure.
    """
    placed = [_place(arrays[path], leaf) for path, leaf in named_leaves(target).items()]
    return jax.tree.unflatten(jax.tree.structure(target), placed)


def crc(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _place(array: np.ndarray, like: Any) -> Any:
    """The array in the kind of leaf, sharding and memory of ``like``."""
    if isinstance(like, np.ndarray | np.generic):
        return array if isinstance(like, np.ndarray) else array[()]
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return array.item()  # a Python number
    # An array that was never put anywhere stays so: committing it would change the compiled step's signature.
    sharding = like.sharding if getattr(like, "committed", True) else None
    if sharding is not None and not sharding.is_fully_addressable:
        return put(array, sharding)
    if not _is_key(like):
        return jax.device_put(array, sharding, may_alias=False)  # the step donates its state
    key = jax.random.wrap_key_data(jax.device_put(array, may_alias=False), impl=_key_impl(like))
    return key if sharding is None else jax.device_put(key, sharding)


def _key_impl(like: jax.Array | jax.ShapeDtypeStruct) -> Any:
    """``jax.random.key_impl`` refuses an abstract key, but not a traced one."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]
