"""The 7462 classes of five-card hands and the 1326 pairs of hole cards, written down from their definitions.

A strength is ``category << 26 | high << 13 | low``: ``high`` and ``low`` are sets of ranks, bit r for rank r (0 for a
deuce, 12 for an ace).  Sets of equal size compare as their ranks do, from the highest down, so that strengths compare
as hands do and no table is needed to make one.  The tables here are for what leaves this package: the numbers 1..7462
that other evaluators use, and the order of the 1326 pairs in an array of weights.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

RANK_COUNT = 13
DECK_SIZE = 52
CLASS_COUNT = 7462
PAIR_COUNT = 1326


def pack(category: int, high: int, low: int = 0) -> int:
    """``category << 26 | high << 13 | low``, the strength of a class.

    >>> pack(1, 0b1000, 0b0111) > pack(0, 0b11111)
    True
    """
    return category << 26 | high << RANK_COUNT | low


def _sets(size: int, without: int = 0) -> Iterator[int]:
    """Every set of so many ranks, as bits, that shares none with `without`."""
    free = [1 << rank for rank in range(RANK_COUNT) if not without >> rank & 1]
    return (sum(ranks) for ranks in itertools.combinations(free, size))


def _grouped(category: int, high: int, kickers: int) -> Iterator[int]:
    """Classes of a set of `high` ranks beside a set of `kickers` ranks."""
    return (pack(category, many, few) for many in _sets(high) for few in _sets(kickers, without=many))


@functools.cache
def class_strengths() -> np.ndarray:
    """The strengths of the 7462 classes, weakest first.

    Returns:
        int32 [7462]; read-only.

    >>> len(class_strengths())
    7462
    """
    runs = {0b1111100000000 >> low for low in range(9)} | {0b1000000001111}
    tops = [1 << rank for rank in range(3, RANK_COUNT)]
    spread = [ranks for ranks in _sets(5) if ranks not in runs]
    classes = [pack(0, 0, ranks) for ranks in spread] + [pack(5, 0, ranks) for ranks in spread]
    classes += [pack(category, top) for category in (4, 8) for top in tops]
    for category, high, kickers in ((1, 1, 3), (2, 2, 1), (3, 1, 2), (6, 1, 1), (7, 1, 1)):
        classes += _grouped(category, high, kickers)
    strengths = np.sort(np.asarray(classes, np.int32))
    strengths.setflags(write=False)
    return strengths


@functools.cache
def pairs() -> np.ndarray:
    """The 1326 pairs of cards, in the order of every array of weights: (1, 0), (2, 0), (2, 1), (3, 0), ...

    Pair ``a > b`` stands at ``a (a - 1) / 2 + b``.

    Returns:
        int32 [1326, 2], the higher card first; read-only.
    """
    both = np.asarray([(a, b) for a in range(DECK_SIZE) for b in range(a)], np.int32)
    both.setflags(write=False)
    return both


def pair_index(first: int, second: int) -> int:
    """Where a pair of different cards stands in `pairs`, ``a (a - 1) / 2 + b`` with ``a > b``.

    >>> pair_index(0, 1), pair_index(51, 50)
    (0, 1325)
    """
    low, high = sorted((first, second))
    return high * (high - 1) // 2 + low
