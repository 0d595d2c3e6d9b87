"""Stages of a pipeline: each has a folder, and a note that says from what it was made and what it left.

A stage whose note fits is skipped.  One of whose files is gone is made again, and since stages are functions of
settings and inputs, what comes after it then still fits.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.poker.files import SUMMARY, fingerprint
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic

NOTES = "notes"


class Stage(NamedTuple):
    """A stage.

    Attributes:
        name: of its folder.
        settings: all that it depends on besides the files of the stages before.
        after: the stages whose files it reads.
        results: patterns of the files that it leaves, below its folder.
        run: makes them.
        stale: patterns of what is removed before it is made again, because its own command would skip itself.
        cheap: made again when settings or inputs differ; else that is refused, since it would cost what was made.
    """

    name: str
    settings: Any
    after: tuple[str, ...]
    results: tuple[str, ...]
    run: Callable[[], None]
    stale: tuple[str, ...] = ()
    cheap: bool = False


def run_stages(workdir: pathlib.Path, stages: Sequence[Stage]) -> list[str]:
    """Run those that are not finished, in their order; their names.

    Raises:
        UserError: when a stage was finished with other settings or inputs.
    """
    digests: dict[str, str] = {}
    done: list[str] = []
    for stage in stages:
        digest = fingerprint([stage.settings, [digests[name] for name in stage.after]])
        note = _note(workdir, stage)
        same = bool(note) and note["digest"] == digest
        if note and not same and not stage.cheap:
            raise UserError(
                f"{workdir / stage.name} was made with other settings or inputs; set --config.workdir to a new folder, "
                f"or delete that one and {_path(workdir, stage)}, and those of the stages after it"
            )
        if same and _whole(workdir / stage.name, note["files"]):
            print(f"stage {stage.name}: finished before", flush=True)
        else:
            print(f"stage {stage.name}", flush=True)
            _clear(workdir / stage.name, stage.stale if note else (SUMMARY,) if SUMMARY in stage.stale else ())
            stage.run()
            note = _take_note(workdir, stage, digest)
            done.append(stage.name)
        digests[stage.name] = fingerprint(note["files"])
    return done


def _path(workdir: pathlib.Path, stage: Stage) -> pathlib.Path:
    return workdir / NOTES / f"{stage.name}.json"


def _note(workdir: pathlib.Path, stage: Stage) -> dict[str, Any]:
    path = _path(workdir, stage)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _take_note(workdir: pathlib.Path, stage: Stage, digest: str) -> dict[str, Any]:
    """What the stage left: size and digest of every file."""
    folder = workdir / stage.name
    paths = sorted({path for pattern in stage.results for path in folder.glob(pattern) if path.is_file()})
    files = {str(path.relative_to(folder)): [path.stat().st_size, _digest(path)] for path in paths}
    note = {"digest": digest, "files": files}
    write_atomic(_path(workdir, stage), json.dumps(note, indent=1) + "\n")
    return note


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _whole(folder: pathlib.Path, files: Mapping[str, Sequence[Any]]) -> bool:
    found = {name: folder / name for name in files}
    return all(path.is_file() and path.stat().st_size == files[name][0] for name, path in found.items())


def _clear(folder: pathlib.Path, patterns: Sequence[str]) -> None:
    for path in [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]:
        path.unlink()
