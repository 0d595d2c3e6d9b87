"""Which arrays of an optimizer's state lie in host memory, and how they get there."""

from collections.abc import Sequence
from typing import Any

import jax

from lqlm.types import Array

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device


def choose_hosted(shapes: Sequence[Any], offload: float, min_size: int) -> tuple[bool, ...]:
    """Choose arrays for the host, the largest first, until their bytes reach a share of all that may go there.

    The choice depends on shapes and dtypes alone; of equal arrays the earlier one goes first.

    Args:
      shapes: arrays, concrete or abstract.
      offload: the share, 0 to 1, of the bytes of the arrays that are not too small.
      min_size: arrays of fewer elements stay on the device.

    Returns:
      For each array whether it lies on the host.

    >>> choose_hosted([jax.numpy.zeros(n) for n in (3, 8, 5, 5)], offload=0.6, min_size=4)
    (False, True, True, False)
    """
    sizes = {k: x.size * x.dtype.itemsize for k, x in enumerate(shapes) if x.size >= min_size}
    wanted, chosen = offload * sum(sizes.values()), set()
    for k in sorted(sizes, key=lambda k: -sizes[k]):
        if wanted <= 0:
            break
        chosen.add(k)
        wanted -= sizes[k]
    return tuple(k in chosen for k in range(len(shapes)))


def to_host(x: Array, hosted: bool = True) -> Array:
    """``x`` in host memory, or as it is if it is not one of the chosen."""
    return jax.device_put(x, HOST) if hosted else x


def to_device(x: Array, hosted: bool = True) -> Array:
    """``x`` on the device; one that is not hosted is there already."""
    return jax.device_put(x, DEVICE) if hosted else x
