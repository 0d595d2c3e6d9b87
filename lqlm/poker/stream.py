"""Hands out of files of any size in constant memory: plain, .gz, .tar, .tar.gz, folders and globs.

A hand that cannot be read is a :class:`Skipped` with its file, line and reason; the hands around it are not touched.
"""

import codecs
import dataclasses
import glob
import gzip
import io
import os
import pathlib
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TextIO, cast

from lqlm.errors import UserError
from lqlm.poker.phh import parse as parse_phh
from lqlm.poker.pokerstars_header import START
from lqlm.poker.pokerstars_reader import LineError, parse_lines
from lqlm.poker.record import Hand, HandError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LOGS = (".txt", ".phh", ".phhs")
LONGEST = 4000  # lines of one hand; more means that the text is something else
DAMAGED = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error)
SUMMARY = "*** SUMMARY ***"
_OF_SUMMARY = re.compile(r"Total pot |Seat \d+: |(?:FIRST |SECOND |THIRD )?Board \[|Hand was run ", re.IGNORECASE)
_SECTION = re.compile(r"\[\s*[^\[\]]+\s*\]\s*(?:#.*)?$")


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """A hand and where it stands."""

    hand: Hand
    file: str
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """What was not read: file, line (from 1) and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts of a stream: hands read, and skipped by reason (numbers in the reasons taken out)."""

    read: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, item: Read | Skipped) -> None:
        """Count one item."""
        if isinstance(item, Read):
            self.read += 1
        else:
            self.skipped[reason_kind(item.reason)] += 1


def reason_kind(reason: str) -> str:
    """A reason without what differs from hand to hand, so that counts of reasons stay few.

    >>> reason_kind("seat 3 puts in 12 of 10")
    'seat N puts in N of N'
    """
    return re.sub(r"\d+(?:\.\d+)?", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reason))[:100]


def files_of(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files of paths, folders (all logs and archives below) and globs, each once, in order.

    Raises:
        UserError: when a source matches nothing.
    """
    found: dict[str, None] = {}
    for source in (os.fspath(source) for source in sources):
        if os.path.isdir(source):
            below = sorted(str(path) for path in pathlib.Path(source).rglob("*") if _is_log(path.name))
        else:
            below = [source] if os.path.isfile(source) else sorted(glob.glob(source, recursive=True))
        if not below:
            raise UserError(f"{source}: no hand histories there; give files, folders or globs (.txt, .phh, .gz, .tar)")
        found |= dict.fromkeys(path for path in below if os.path.isfile(path))
    return list(found)


def _is_log(name: str) -> bool:
    return name.endswith((*LOGS, *TARS)) or name.removesuffix(".gz").endswith(LOGS)


def texts(path: str) -> Iterator[tuple[str, TextIO]]:
    """The texts of a file, one at a time: itself, or the logs of an archive as "archive:member"."""
    if path.endswith(TARS):
        yield from _members(path)
        return
    with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
        yield path, _text(cast(IO[bytes], file))


def _members(path: str) -> Iterator[tuple[str, TextIO]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and _is_log(member.name) and (file := archive.extractfile(member)):
                yield f"{path}:{member.name}", _text(io.BufferedReader(_Forward(file)))
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps a record of every member


class _Forward(io.RawIOBase):
    """A member of an archive that is read once from front to back, as a file that cannot seek."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _text(file: IO[bytes]) -> TextIO:
    """Text with any line ends; bytes that are no UTF-8 are read as Windows-1252, as old logs were written."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="old_logs", newline=None)


def _old_logs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("old_logs", _old_logs)


def read_hands(sources: Iterable[str | os.PathLike[str]]) -> Iterator[Read | Skipped]:
    """Every hand of the sources, in order, and what was skipped.

    Args:
        sources: files, folders or globs; what ends in .phh or .phhs is PHH, everything else PokerStars text.

    Yields:
        A :class:`Read` for each hand, a :class:`Skipped` for what is none.

    Raises:
        UserError: when a source matches nothing or may not be read.  One that is damaged, an archive that was cut off,
            is read up to there; the rest is skipped, and the next source comes.
    """
    for path in files_of(sources):
        place = (path, 1)
        try:
            for name, text in texts(path):
                is_phh = name.removesuffix(".gz").endswith((".phh", ".phhs"))
                for item in read_phh(name, text) if is_phh else read_pokerstars(name, text):
                    place = (item.file, item.line)
                    yield item
        except DAMAGED as error:
            yield Skipped(*place, f"the file is damaged behind what begins here ({error}); what follows is lost")
        except OSError as error:
            raise UserError(f"{path}: {error}") from error


def read_pokerstars(name: str, lines: Iterable[str]) -> Iterator[Read | Skipped]:
    """The hands of one text.

    A header begins a hand, wherever the one before it ended; below a hand's summary, what is no part of a summary
    begins something of its own, so that a header that is damaged does not cost the hand before it.
    """
    return _read(name, _chunks(lines, _Borders()), _from_text)


class _Borders:
    """Whether a line of a log begins something, told of all its lines in turn."""

    def __init__(self) -> None:
        self.summary = self.blank = False

    def __call__(self, line: str) -> bool:
        site = line.startswith("PokerStars ")
        header = site and bool(START.match(line))
        other = self.summary and (self.blank or site) and bool(line.strip()) and not _OF_SUMMARY.match(line.strip())
        self.summary = (self.summary and not header and not other) or line.startswith(SUMMARY)
        self.blank = not line.strip()
        return header or other


def read_phh(name: str, lines: Iterable[str]) -> Iterator[Read | Skipped]:
    """The hands of one PHH text: one, or many in sections [1], [2], ..."""
    return _read(name, _chunks(lines, lambda line: line[0] == "[" and bool(_SECTION.match(line))), _from_phh)


def _from_text(name: str, lines: list[str]) -> Hand | None:
    if not START.match(lines[0]):
        raise LineError(f"no header of a hand begins this text: {lines[0].strip()[:80]!r}", 0)
    return parse_lines(lines)


def _from_phh(name: str, lines: list[str]) -> Hand | None:
    if _SECTION.match(lines[0]):
        lines = lines[1:]
    return parse_phh("".join(lines), table=_folder(name))


def _folder(name: str) -> str:
    """The folder of a PHH file: its session, where the file does not name a table."""
    inner = name.rpartition(":")[2]
    return pathlib.PurePath(inner).parent.name


def _chunks(lines: Iterable[str], starts: Callable[[str], bool]) -> Iterator[tuple[int, list[str], bool]]:
    """Line number, lines, and whether the chunk was cut because it grew too long."""
    start, held, long = 1, list[str](), False
    for number, line in enumerate(lines, 1):
        line = line.lstrip("\ufeff") if line[0] == "\ufeff" else line
        if starts(line) and held:
            yield start, held, long
            start, held, long = number, [], False
        if not held and not line.strip():
            continue
        if not held:
            start = number
        if len(held) < LONGEST:
            held.append(line)
        else:
            long = True
    if held:
        yield start, held, long


def _read(
    name: str, chunks: Iterator[tuple[int, list[str], bool]], parse: Callable[[str, list[str]], Hand | None]
) -> Iterator[Read | Skipped]:
    for start, lines, long in chunks:
        try:
            if long:
                raise LineError(f"more than {LONGEST} lines without a header", LONGEST - 1)
            hand = parse(name, lines)
            if hand is not None:
                yield Read(hand, name, start)
        except HandError as error:
            yield Skipped(name, start + getattr(error, "line", 0), str(error))
        except ValueError as error:  # a card that is none, in a format without lines
            yield Skipped(name, start, " ".join(str(error).split()))
