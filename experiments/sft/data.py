"""Records to learn from and to hold out, and the batches that are made of them."""

import dataclasses
import hashlib
import itertools
import pydoc_data.topics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from experiments.sft.settings import DataSettings, SFTExperiment
from lqlm.errors import UserError
from lqlm.io.datasets import DataSource, Record, epochs, records
from lqlm.tasks.arithmetic import arithmetic_task
from lqlm.tasks.base import Item
from lqlm.tasks.batches import Batches, Position, stream_batches
from lqlm.tasks.instructions import Example, Tokenizer, hold_out, read_examples, tokenize
from lqlm.tasks.packing import PackedRows, pack, pad_rows, row_length

TOPICS = "python-topics"


class Records(NamedTuple):
    """Records of both sides; those to learn from are empty where they are streamed."""

    train: list[Record]
    heldout: list[Record]


def read_records(settings: DataSettings, seed: int) -> Records:
    """All records but those of a stream.

    Raises:
        UserError: naming the file and line, or the setting, that cannot be used.
    """
    heldout = list(itertools.islice(_records(settings, heldout=True), settings.heldout or None))
    if settings.stream:
        return Records([], heldout)
    if not settings.source:
        return made(settings)
    train = list(itertools.islice(_records(settings, heldout=False), settings.limit or None))
    return Records(train, heldout) if settings.elsewhere else Records(*hold_out(train, settings.heldout, seed))


def made(settings: DataSettings) -> Records:
    """Arithmetic as instructions; what is held out is not among the others in another order."""
    task = arithmetic_task(dataclasses.replace(settings.made, heldout=settings.heldout))

    def record(item: Item) -> Record:
        output = item.solution if settings.worked else item.answer
        return Record(item.id, {"instruction": item.question, "output": output})

    return Records([record(i) for i in task.train[: settings.limit or None]], [record(i) for i in task.heldout])


def source_of(settings: DataSettings, heldout: bool = False) -> DataSource:
    """Where the records lie."""
    place, split = settings.source, settings.split
    if heldout:
        place, split = settings.heldout_source or place, settings.heldout_split or split
    return DataSource(
        path=place,
        split=split,
        subset=settings.subset,
        data_files=() if heldout and settings.heldout_source else settings.data_files,
        documents=settings.documents,
        shuffle_buffer=settings.shuffle_buffer if settings.stream and not heldout else 0,
    )


def _records(settings: DataSettings, heldout: bool) -> Iterator[Record]:
    if heldout and not settings.elsewhere:
        return iter(())
    if settings.source == TOPICS and not heldout:
        return (Record(f"{TOPICS}, {name}", {"text": text}) for name, text in sorted(topics().items()))
    return records(source_of(settings, heldout))


def topics() -> Mapping[str, str]:
    """Sections of the language reference as plain text, about half a megabyte; they belong to Python itself."""
    return pydoc_data.topics.topics


def texts_in(fields: Any) -> Iterator[str]:
    """Every text of a record, at any depth: what a tokenizer is trained on."""
    if isinstance(fields, str):
        yield fields
    elif isinstance(fields, Mapping | list | tuple):
        for part in fields.values() if isinstance(fields, Mapping) else fields:
            yield from texts_in(part)


class Feed(Protocol):
    """Batches to learn from."""

    fingerprint: str  # of the data; empty where it is not known before the end

    def at(self, step: int, position: Sequence[int]) -> tuple[PackedRows, Sequence[int]]:
        """The batch of a step, and the position after it; both depend on step and position only."""

    def epoch(self, step: int) -> float | None:
        """Share of the data that was seen after so many steps; None where it is not known."""


class MemoryFeed:
    """Rows that lie in memory, in an order of their own in each epoch."""

    def __init__(self, rows: PackedRows, size: int, seed: int):
        self.batches = Batches(rows, size, seed)
        self.fingerprint = hashlib.sha256(b"".join(array.tobytes() for array in rows)).hexdigest()

    def at(self, step: int, position: Sequence[int]) -> tuple[PackedRows, Sequence[int]]:
        """The rows of a step; the position has no meaning."""
        return self.batches.at(step), position

    def epoch(self, step: int) -> float:
        """Rows used over rows there are."""
        return step * self.batches.size / len(self.batches.rows.tokens_BT)


class StreamFeed:
    """Rows from a stream of records, which is read on as long as positions follow each other."""

    fingerprint = ""

    def __init__(self, settings: SFTExperiment, tokenizer: Tokenizer, length: int, pad_id: int):
        self._source = source_of(settings.data)
        self._make = lambda start: stream_batches(
            self._examples, settings.run.rows, length, pad_id, buffer=settings.data.buffer, start=start
        )
        self._tokenize = lambda record: tokenize(record.where, record.fields, tokenizer, settings.text).examples
        self._after: Position | None = None
        self._open: Iterator[tuple[PackedRows, Position]] = iter(())

    def _examples(self, start: int) -> Iterator[Sequence[Example]]:
        return (self._tokenize(record) for record in epochs(self._source, start))

    def at(self, step: int, position: Sequence[int]) -> tuple[PackedRows, Sequence[int]]:
        """The next batch after a position; another position than the last one opens the source anew."""
        start = Position(*position)
        if start != self._after:
            self._open = self._make(start)
        batch, self._after = next(self._open)
        return batch, list(self._after)

    def epoch(self, step: int) -> None:
        """Nobody knows how long a stream is."""


class Data(NamedTuple):
    """What a run reads: batches to learn from, rows to evaluate on, and the length of both."""

    feed: Feed
    heldout: PackedRows
    length: int
    skipped: dict[str, int]


def prepare(settings: SFTExperiment, found: Records, tokenizer: Tokenizer, pad_id: int) -> Data:
    """Examples, rows and batches.

    Raises:
        UserError: naming the record and the field that does not fit, or when nothing is left to learn or to evaluate.
    """
    heldout = _examples(found.heldout, tokenizer, settings, "held-out ").examples[: settings.run.eval_items or None]
    run = settings.run
    if settings.data.stream:
        length = run.length or settings.text.max_length
        feed: Feed = StreamFeed(settings, tokenizer, length, pad_id)
        return Data(feed, pack(heldout, length, pad_id), length, {})
    train, skipped = _examples(found.train, tokenizer, settings, "")
    length = run.length or (settings.text.max_length if run.packing else row_length([*train, *heldout]))
    make = pack if run.packing else pad_rows
    rows = make(train, length, pad_id)
    return Data(MemoryFeed(rows, run.rows, settings.seed), make(heldout, length, pad_id), length, skipped)


def _examples(found: Iterable[Record], tokenizer: Tokenizer, settings: SFTExperiment, side: str) -> Any:
    try:
        return read_examples(found, tokenizer, settings.text)
    except UserError as error:
        raise UserError(f"{side}{error}") from error
