"""Rows of one length from examples of many: several in a row, told apart by segments, or one in each.

Attention stays inside a segment and positions restart there (``forward(..., segments_BT=...)``), so that a packed row
gives the same loss as its examples alone; only the padding, and the time spent on it, is less.
"""

import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.generation.rollout import round_up
from lqlm.tasks.instructions import Example


class PackedRows(NamedTuple):
    """Rows of tokens.

    Attributes:
        tokens_BT: int32.
        segments_BT: int32: 0 at padding, and 1, 2, ... for the examples of a row, from left to right.
        targets_BT: bool: which tokens are to be predicted; never the first of a segment, which has nothing before it.
    """

    tokens_BT: np.ndarray
    segments_BT: np.ndarray
    targets_BT: np.ndarray


def pack(examples: Sequence[Example], length: int, pad_id: int) -> PackedRows:
    """Packs by best-fit decreasing: the longest first, each into the fullest row that still has room for it.

    It needs at most 11/9 of the fewest rows possible, and a few more (Johnson et al. 1974).

    Args:
        examples: each of 1 to `length` tokens; it is not split.
        length: T, tokens of a row.
        pad_id: written after the last example of a row.

    Raises:
        UserError: naming an example that is empty, too long, or wants its first token predicted.

    >>> rows = pack([Example(np.arange(n, dtype=np.int32), np.arange(n) > 0) for n in (2, 5, 3, 4)], 7, pad_id=9)
    >>> print(rows.tokens_BT, rows.segments_BT, sep="\\n")
    [[0 1 2 3 4 0 1]
     [0 1 2 3 0 1 2]]
    [[1 1 1 1 1 2 2]
     [1 1 1 1 2 2 2]]
    """
    lengths = [len(example.tokens) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: -lengths[i])
    return _rows(examples, best_fit(lengths, order, length), length, pad_id)


def pack_in_order(examples: Sequence[Example], length: int, pad_id: int) -> PackedRows:
    """Packs by best fit in the order given, as a stream comes; arguments as :func:`pack`."""
    lengths = [len(example.tokens) for example in examples]
    return _rows(examples, best_fit(lengths, range(len(examples)), length), length, pad_id)


def pad_rows(examples: Sequence[Example], length: int, pad_id: int) -> PackedRows:
    """One example in each row, in the order given; arguments as :func:`pack`."""
    return _rows(examples, [[i] for i in range(len(examples))], length, pad_id)


def best_fit(lengths: Sequence[int], order: Iterable[int], length: int) -> list[list[int]]:
    """Which items lie in which row: each goes into the row with the least room that holds it, or else into a new one.

    Args:
        lengths: of the items.
        order: of their numbers, in which they are placed.
        length: of a row; longer items get one of their own.

    >>> best_fit([4, 3, 3, 2], [0, 1, 2, 3], length=6)
    [[0, 3], [1, 2]]
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # sorted: free tokens, row
    for item in order:
        place = bisect.bisect_left(rooms, (lengths[item], -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(item)
        bisect.insort(rooms, (room - lengths[item], row))
    return rows


def fill(rows: PackedRows) -> float:
    """The share of tokens that are not padding."""
    return float(np.mean(rows.segments_BT > 0)) if rows.segments_BT.size else 0.0


def row_length(examples: Sequence[Example], buckets: Sequence[int] = ()) -> int:
    """The length of rows that holds every example: a bucket, or without any the longest rounded up to 16s.

    Args:
        examples: at least one.
        buckets: lengths to choose from.

    Raises:
        UserError: when the longest example exceeds the largest bucket.
    """
    longest = max(len(example.tokens) for example in examples)
    if not buckets:
        return round_up(longest, 16)
    if longest > max(buckets):
        raise UserError(
            f"an example of {longest} tokens is longer than the largest row of {max(buckets)}; add a longer"
        )
    return min(size for size in buckets if size >= longest)


def _rows(examples: Sequence[Example], assigned: list[list[int]], length: int, pad_id: int) -> PackedRows:
    for number, example in enumerate(examples):
        _check(number, example, length)
    shape = (len(assigned), length)
    rows = PackedRows(np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.bool_))
    for row, items in enumerate(assigned):
        start = 0
        for segment, item in enumerate(items, start=1):
            tokens, targets = examples[item]
            place = (row, slice(start, start + len(tokens)))
            rows.tokens_BT[place], rows.segments_BT[place], rows.targets_BT[place] = tokens, segment, targets
            start += len(tokens)
    return rows


def _check(number: int, example: Example, length: int) -> None:
    if not 0 < len(example.tokens) <= length:
        raise UserError(f"example {number} has {len(example.tokens)} tokens; a row holds 1 to {length}: truncate first")
    if len(example.targets) != len(example.tokens) or example.targets[0]:
        raise UserError(
            f"example {number}: targets must be as many as tokens, and the first is none (nothing stands before it)"
        )
