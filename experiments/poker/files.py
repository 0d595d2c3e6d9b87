"""Stages that leave whole files: a shard is written beside its place and renamed, a stage ends with its summary."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from lqlm.errors import UserError
from lqlm.io.disk import write_atomic, write_streamed

SUMMARY = "summary.json"


def fingerprint(data: Any) -> str:
    """A short digest of settings and inputs: a stage whose digest is in its summary is finished."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def stamp(path: str | os.PathLike[str]) -> list[Any]:
    """What tells one version of a file from another: path, size and time of change."""
    state = os.stat(path)
    return [os.fspath(path), state.st_size, state.st_mtime_ns]


def finished(folder: pathlib.Path, digest: str) -> dict[str, Any] | None:
    """The summary of a stage that is finished with these settings, else None.

    Raises:
        UserError: when the folder holds the stage with other settings or inputs.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary.get("digest") != digest:
        raise UserError(f"{folder} was made with other settings or inputs; choose a new --out or remove it")
    return summary


def finish(folder: pathlib.Path, digest: str, summary: Mapping[str, Any]) -> None:
    """Write the summary that says that the stage is finished."""
    write_atomic(folder / SUMMARY, json.dumps({"digest": digest, **summary}, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """A JSONL file of rows, whole or absent; how many there are."""
    count = 0

    def fill(beside: pathlib.Path) -> None:
        nonlocal count
        with beside.open("w", encoding="utf-8") as file:
            for row in rows:
                put(file, row)
                count += 1

    write_streamed(path, fill)
    return count


def put(file: IO[str], row: Mapping[str, Any]) -> None:
    """One row of a JSONL file."""
    file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_rows(path: pathlib.Path, *needed: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file.

    Args:
        path: of the file.
        needed: what every row has.

    Raises:
        UserError: naming file and line of what is no JSON, or lacks what is needed.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: no JSON: {error}") from error
            if missing := [name for name in needed if name not in row]:
                raise UserError(f"{path}:{number}: no {missing[0]!r}; this is no file of the stage before")
            yield row


def shards(folder: pathlib.Path, pattern: str = "*.jsonl") -> list[pathlib.Path]:
    """The files of a stage before, in order.

    Raises:
        UserError: when that stage is not finished or has none.
    """
    if not (folder / SUMMARY).exists():
        raise UserError(f"{folder} is no finished stage: it has no {SUMMARY}")
    found = sorted(folder.glob(pattern))
    if not found:
        raise UserError(f"{folder} holds no {pattern}")
    return found
