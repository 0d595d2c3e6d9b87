"""Logs (PokerStars text, PHH; also .gz, .tar.gz) to typed hands in JSONL.

One shard for each source file: a killed run keeps the shards that are whole.  skipped.jsonl names file, line and reason
of every hand that was not read.
"""

import argparse
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from experiments.poker.arguments import Parser
from experiments.poker.files import SUMMARY, fingerprint, finish, finished, put, read_rows, stamp, write_rows
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic, write_streamed
from lqlm.poker.codec import to_json
from lqlm.poker.stream import Read, Tally, files_of, read_hands, reason_kind

VERSION = 1  # of the rows; another number makes old shards anew


def main(argv: Sequence[str]) -> None:
    """Parse every source into ``--out``."""
    options = _options(argv)
    files = files_of(options.sources)
    digest = fingerprint([VERSION, [stamp(file) for file in files]])
    folder = pathlib.Path(options.out)
    if summary := finished(folder, digest):
        print(f"{folder} is finished\n{report(summary)}")
        return
    counts = [_shard(folder, number, file) for number, file in enumerate(files)]
    rows = (row for number in range(len(files)) for row in read_rows(_skipped(folder, number)))
    write_rows(folder / "skipped.jsonl", rows)
    for shard in folder.glob("hands-*.jsonl"):  # of sources that an earlier command, cut off, was given besides
        if int(shard.stem.removeprefix("hands-")) >= len(files):
            shard.unlink()
    summary = _sum(files, counts)
    if not summary["read"]:
        raise UserError(f"{options.sources[0]}: no hand could be read; {folder / 'skipped.jsonl'} says why")
    finish(folder, digest, summary)
    print(report(summary))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("parse", __doc__)
    parser.add_argument("sources", nargs="+", help="files, folders or globs")
    parser.add_argument("--out", required=True, help=f"folder of the shards, skipped.jsonl and {SUMMARY}")
    return parser.parse_args(argv)


def _skipped(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / "shards" / f"skipped-{number:06}.jsonl"


def _shard(folder: pathlib.Path, number: int, file: str) -> dict[str, Any]:
    """The counts of one source; its shard is made unless it is there and the source is the same."""
    note = folder / "shards" / f"counts-{number:06}.json"
    key = fingerprint([VERSION, stamp(file)])
    if note.exists() and (counts := json.loads(note.read_text(encoding="utf-8")))["key"] == key:
        return counts
    tally = Tally()

    def fill(beside: pathlib.Path) -> None:  # both files row by row: neither is held in memory
        with beside.open("w", encoding="utf-8") as skipped:
            write_rows(folder / f"hands-{number:06}.jsonl", _rows(file, tally, skipped))

    write_streamed(_skipped(folder, number), fill)
    counts = {"key": key, "file": file, "read": tally.read, "skipped": dict(tally.skipped)}
    write_atomic(note, json.dumps(counts, ensure_ascii=False))
    return counts


def _rows(file: str, tally: Tally, skipped: IO[str]) -> Iterator[dict[str, Any]]:
    for item in read_hands([file]):
        tally.add(item)
        if isinstance(item, Read):
            yield {"session": item.hand.session, "file": item.file, "line": item.line, "hand": to_json(item.hand)}
        else:
            row = {"file": item.file, "line": item.line, "reason": item.reason, "kind": reason_kind(item.reason)}
            put(skipped, row)


def _sum(files: Sequence[str], counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    for count in counts:
        reasons.update(count["skipped"])
    read = sum(count["read"] for count in counts)
    return {"files": len(files), "read": read, "skipped": sum(reasons.values()), "reasons": dict(reasons.most_common())}


def report(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = [f"{summary['files']} files: {summary['read']} hands read, {summary['skipped']} skipped"]
    return "\n".join(lines + [f"  {count:8}  {reason}" for reason, count in summary["reasons"].items()])
