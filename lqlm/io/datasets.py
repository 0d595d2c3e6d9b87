"""Records of a data set, streamed from where any number of them was read: JSON lines, JSON, plain text, `datasets`.

A record is a pair of its place ("train.jsonl, line 7", for error messages) and its fields.  The order never changes
between runs, so the number of records read so far is all that a checkpoint has to remember:
``records(source, start=n)`` gives what ``records(source)`` gives after n records.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TextIO

from lqlm.errors import UserError

LINES, JSON, TEXT = (".jsonl", ".ndjson"), (".json",), (".txt",)


class Record(NamedTuple):
    """One record: where it stands, for error messages, and its fields by name."""

    where: str
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Where records come from, and in which order.

    Attributes:
        path: a file (.jsonl or .ndjson: a record a line; .json: a list of records; .txt: documents, each a record
            ``{"text": ...}``; all of them also as .gz), a directory that `datasets` reads, or else the name of a data
            set on the hub or of a builder ("json", "parquet", "csv": with `data_files`).
        split, subset: of a data set that `datasets` reads.
        data_files: the files of a builder.
        documents: what a document of a text file is: the whole file, or what stands between blank lines.
        shuffle_buffer: how many records wait to be drawn from; 0 or 1 keeps the order of the source.
        seed: of the shuffling.
    """

    path: str
    split: str = "train"
    subset: str | None = None
    data_files: tuple[str, ...] = ()
    documents: Literal["file", "paragraphs"] = "file"
    shuffle_buffer: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.documents not in ("file", "paragraphs"):
            raise UserError(f'data: documents={self.documents!r}; a document is the "file", or one of its "paragraphs"')
        if self.shuffle_buffer < 0:
            raise UserError(f"data: shuffle_buffer={self.shuffle_buffer}; give a number of records, or 0 for none")


def as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Records as JSON lines.

    >>> as_lines([{"text": "a"}, {"text": "b"}])
    '{"text": "a"}\\n{"text": "b"}\\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def records(source: DataSource, start: int = 0, epoch: int = 0) -> Iterator[Record]:
    """The records of one pass, without the first `start`; a source without any is an error.

    Without shuffling, what is left out is skipped by `datasets` or read and dropped; with shuffling it is drawn again.

    Args:
        source: the data.
        start: number of records that are left out.
        epoch: picks the order of a shuffled source.

    Raises:
        UserError: naming the file, and the line or record, that is missing, damaged or empty.
    """
    if source.shuffle_buffer > 1:
        whole = _some(_ordered(source, 0), source)
        yield from itertools.islice(shuffled(whole, source.shuffle_buffer, f"{source.seed}/{epoch}"), start, None)
    elif start == 0:
        yield from _some(_ordered(source, 0), source)
    else:
        yield from _ordered(source, start)


def epochs(source: DataSource, start: int = 0) -> Iterator[Record]:
    """Pass after pass over the records, each in an order of its own if the source is shuffled; without end.

    Args:
        source: the data.
        start: number of records, of all passes together, that are left out.
    """
    first = 0
    if start:  # passes are all of one length, so that whole ones need not be read again
        read = sum(1 for _ in itertools.islice(_ordered(source, 0), start))
        first, start = (0, start) if read == start else divmod(start, max(read, 1))
    for epoch in itertools.count(first):
        yield from records(source, start, epoch)
        start = 0


def shuffled(items: Iterable[Record], buffer: int, seed: object) -> Iterator[Record]:
    """The items in an order that depends on `seed` and their number only: each is drawn from the next `buffer`.

    Args:
        items: of any number; `buffer` of them are held in memory.
        buffer: how many an item is drawn from, at least 1.
        seed: anything with a text of its own.

    >>> [r.where for r in shuffled((Record(str(i), {}) for i in range(6)), buffer=3, seed=1)]
    ['2', '0', '1', '3', '5', '4']
    """
    source, drawn = iter(items), itertools.count()
    waiting = list(itertools.islice(source, buffer))
    while waiting:
        # A hash gives the same draws with every version of Python and numpy; their generators promise no such thing.
        digest = hashlib.blake2b(f"{seed}/{next(drawn)}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") % len(waiting)
        yield waiting[place]
        for following in itertools.islice(source, 1):
            waiting[place] = following
            break
        else:
            waiting.pop(place)


def _some(found: Iterator[Record], source: DataSource) -> Iterator[Record]:
    empty = True
    for record in found:
        empty = False
        yield record
    if empty:
        raise UserError(f"{source.path}: no records in it; check that it is the right file or split")


def _ordered(source: DataSource, start: int) -> Iterator[Record]:
    path = pathlib.Path(source.path)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if not path.exists() and (path.is_absolute() or source.path.startswith(".")):
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir() or (not path.exists() and kind not in LINES + JSON + TEXT):
        return _from_datasets(source, start)
    if kind in LINES:
        found = _from_lines(path)
    elif kind in JSON:
        found = _from_json(path)
    elif kind in TEXT:
        found = _from_text(path, source.documents)
    else:
        raise UserError(f"{path}: unknown kind of file; give .jsonl, .json or .txt, each also with .gz")
    return itertools.islice(found, start, None)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[TextIO]:
    """The text of a file, unpacked; what goes wrong while it is read becomes one line."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); convert the file") from None
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None


def _from_lines(path: pathlib.Path) -> Iterator[Record]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _record(where, _parsed(line, where))


def _from_json(path: pathlib.Path) -> Iterator[Record]:
    with _opened(path) as file:
        text = file.read()
    found = _parsed(text, str(path)) if text.strip() else []
    if not isinstance(found, list):
        raise UserError(f"{path}: not a list of records; write [{{...}}, {{...}}], or a record a line in a .jsonl file")
    yield from (_record(f"{path}, record {i}", fields) for i, fields in enumerate(found))


def _from_text(path: pathlib.Path, documents: str) -> Iterator[Record]:
    with _opened(path) as file:
        if documents == "file":
            text = file.read()
            yield from [Record(str(path), {"text": text})] if text.strip() else []
            return
        numbered = enumerate(file, start=1)
        for blank, group in itertools.groupby(numbered, key=lambda line: not line[1].strip()):
            lines = list(group) if not blank else []
            if lines:
                text = "".join(line for _, line in lines).rstrip("\n")
                yield Record(f"{path}, line {lines[0][0]}", {"text": text})


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{where}: not JSON ({error.msg} at {line}column {error.colno}); mend it there") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; mend it there") from None


def _record(where: str, fields: Any) -> Record:
    if not isinstance(fields, dict):
        raise UserError(f'{where}: {type(fields).__name__} instead of a record; write {{"field": "value", ...}}')
    return Record(where, fields)


def _from_datasets(source: DataSource, start: int) -> Iterator[Record]:
    name = f"data set {source.path!r}, split {source.split!r}"
    files = list(source.data_files) or None
    try:
        import datasets

        found = datasets.load_dataset(
            source.path, source.subset, data_files=files, split=source.split, streaming=True
        ).skip(start)
        for number, fields in enumerate(found, start=start):
            yield _record(f"{name}, record {number}", fields)
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # the hub's client and the builders raise many kinds, none of them documented
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"{name}: cannot be read ({cause}); check name, split and network, or give the path of a local .jsonl file"
        ) from error
