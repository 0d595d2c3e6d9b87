"""The random numbers of a run, all from its seed."""

import jax

from lqlm.types import Key


def keys(seed: int) -> tuple[Key, Key]:
    """The key of the initial values, and that which the number of a step is folded into.

    Two children, because of one key ``split(key, n)[i]`` and ``fold_in(key, i)`` are the same.
    """
    initial, steps = jax.random.split(jax.random.key(seed))
    return initial, steps
