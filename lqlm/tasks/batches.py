"""Batches of rows that a resumed run sees as an uninterrupted one does.

In memory, the batch of a step is a pure function of rows, step and seed.  From a stream, each batch comes with the
position after it, two whole numbers that a checkpoint remembers.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.tasks.base import batch_at
from lqlm.tasks.instructions import Example
from lqlm.tasks.packing import PackedRows, pack_in_order

_PATIENCE = 1000  # records without an example, in a row, after which a stream is taken for one that has none


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches drawn from rows, every row once per epoch and each epoch in another order (see `batch_at`).

    Attributes:
        rows: at least one.
        size: B, rows of a batch; may exceed the number of rows.
        seed: picks the orders.
    """

    rows: PackedRows
    size: int
    seed: int

    def __post_init__(self) -> None:
        if not len(self.rows.tokens_BT) or self.size < 1:
            raise UserError(f"batches of {self.size} from {len(self.rows.tokens_BT)} rows: both must be 1 or more")

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was there; the last of them may begin the next epoch."""
        return -(-len(self.rows.tokens_BT) // self.size)

    def at(self, step: int) -> PackedRows:
        """The rows of one step, from 0 on."""
        chosen = batch_at(range(len(self.rows.tokens_BT)), step, self.size, self.seed)
        return PackedRows(*(array[chosen] for array in self.rows))


def eval_batches(rows: PackedRows, size: int) -> Iterator[PackedRows]:
    """Every row once, in order; the last batch is filled with rows of padding, so that all have one shape.

    Args:
        rows: any number of them.
        size: B, rows of a batch.
    """
    for start in range(0, len(rows.tokens_BT), size):
        yield _filled(PackedRows(*(array[start : start + size] for array in rows)), size)


class Position(NamedTuple):
    """A place in a stream: a number of records, and how many of the rows of the buffer that begins there were used."""

    records: int = 0
    rows: int = 0


BEGINNING = Position()


def stream_batches(
    examples_from: Callable[[int], Iterator[Sequence[Example]]],
    size: int,
    length: int,
    pad_id: int,
    *,
    buffer: int = 1024,
    start: Position = BEGINNING,
) -> Iterator[tuple[PackedRows, Position]]:
    """Packs a stream, one buffer of records after another, and cuts the rows into batches.

    Args:
        examples_from: n -> for each record from number n on, its examples (none when it was skipped).
        size: B, rows of a batch; the last of a stream that ends is filled with rows of padding.
        length: T, tokens of a row.
        pad_id: written at padding.
        buffer: records that are packed together; what resuming has to read again.
        start: position after the last batch that was used.

    Yields:
        Each batch, and the position after it.

    Raises:
        UserError: when the stream gives no example, or one that does not fit into a row.
    """
    if size < 1 or buffer < 1:
        raise UserError(f"stream: batches of {size} rows from buffers of {buffer} records; both must be 1 or more")
    rows = _stream_rows(examples_from, length, pad_id, buffer, start)
    while taken := list(itertools.islice(rows, size)):
        batch = PackedRows(*(np.stack(arrays) for arrays in zip(*(row for row, _ in taken), strict=True)))
        yield _filled(batch, size), taken[-1][1]


def _stream_rows(
    examples_from: Callable[[int], Iterator[Sequence[Example]]], length: int, pad_id: int, buffer: int, start: Position
) -> Iterator[tuple[PackedRows, Position]]:
    source, first, used, idle = iter(examples_from(start.records)), start.records, start.rows, 0
    while taken := list(itertools.islice(source, buffer)):
        packed = pack_in_order([example for examples in taken for example in examples], length, pad_id)
        idle = 0 if len(packed.tokens_BT) else idle + len(taken)
        if idle >= _PATIENCE:
            raise UserError(
                f"stream: {idle} records before record {first + len(taken)} give no example; check the data"
            )
        for row in range(used, len(packed.tokens_BT)):
            yield PackedRows(*(array[row] for array in packed)), Position(first, row + 1)
        first, used = first + len(taken), 0
    if start == BEGINNING and idle == first:
        raise UserError(f"stream: none of its {first} records gives an example; check the data and max_length")


def _filled(batch: PackedRows, size: int) -> PackedRows:
    missing = ((0, size - len(batch.tokens_BT)), (0, 0))
    return PackedRows(*(np.pad(array, missing) for array in batch))
