"""The random numbers of a run, all from its seed."""

import hashlib
from typing import Protocol

import jax

from lqlm.types import Key


def keys(seed: int) -> tuple[Key, Key]:
    """The key of the initial values, and that which the number of a step is folded into.

    Two children, because of one key ``split(key, n)[i]`` and ``fold_in(key, i)`` are the same.
    """
    initial, steps = jax.random.split(jax.random.key(seed))
    return initial, steps


class Staged(Protocol):
    """Settings of a pipeline."""

    @property
    def seed(self) -> int:
        """Of all that is drawn."""


def seed_of(settings: Staged, stage: str) -> int:
    """The seed of a stage: no two draw the same problems in the same order, or sample with the same keys.

    >>> from types import SimpleNamespace
    >>> seed_of(SimpleNamespace(seed=0), "reasoning") == seed_of(SimpleNamespace(seed=0), "alignment")
    False
    """
    return int.from_bytes(hashlib.blake2b(f"{settings.seed}/{stage}".encode(), digest_size=4).digest()) >> 1
