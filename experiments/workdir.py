"""The folder of a run: whose it is, what lies where, and whether the run is over."""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from experiments.configdict import kinds
from experiments.settings import Experiment
from lqlm.errors import UserError
from lqlm.io.datasets import as_lines
from lqlm.io.disk import clear_when_full, write_atomic

# Settings that change nothing that a resumed run must repeat.
FREE = (
    *("workdir", "mesh", "run.checkpoint_every", "run.keep", "run.samples", "run.max_skipped"),
    *("run.reward_timeout", "run.reward_workers"),
)
HOSTS = "hosts."


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of a run's files."""

    path: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        """Orbax checkpoints, one folder a step."""
        return self.path / "checkpoints"

    @property
    def config(self) -> pathlib.Path:
        """The settings that the run was begun with."""
        return self.path / "config.json"

    @property
    def summary(self) -> pathlib.Path:
        """Written last: its presence says that the run is over."""
        return self.path / "summary.json"

    @property
    def curves(self) -> pathlib.Path:
        """The learning curves as a picture."""
        return self.path / "curves.png"

    @property
    def report(self) -> pathlib.Path:
        """The whole run as one page."""
        return self.path / "report.html"

    @property
    def adapter(self) -> pathlib.Path:
        """The finished adapter as a PEFT directory."""
        return self.path / "adapter"

    @property
    def model(self) -> pathlib.Path:
        """The finished model of a full training, as a Hugging Face directory."""
        return self.path / "model"

    @property
    def tokenizer(self) -> pathlib.Path:
        """The tokenizer that was trained for a model from scratch."""
        return self.path / "tokenizer"


@contextlib.contextmanager
def claim(settings: Experiment) -> Iterator[Workdir]:
    """Take the folder for this run: refuse one begun with other settings, or one that another process works in.

    Raises:
        UserError: naming the first setting that differs, with both values.
    """
    workdir = Workdir(pathlib.Path(settings.workdir))
    with _open_lock(workdir.path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{workdir.path}: another process works in this folder; wait, or set --config.workdir"
            ) from error
        for leftover in workdir.path.glob(".*.part"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        _check_same(workdir, settings)
        yield workdir


@contextlib.contextmanager
def follow(settings: Experiment) -> Iterator[Workdir]:
    """The folder of a run that another process has claimed for all."""
    yield Workdir(pathlib.Path(settings.workdir))


def _open_lock(path: pathlib.Path) -> IO[str]:
    try:
        with clear_when_full(path):
            path.mkdir(parents=True, exist_ok=True)
            return (path / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{path}: cannot work there ({error.strerror}); set --config.workdir to a folder") from error


def _begun(workdir: Workdir) -> bool:
    """Whether a checkpoint lies there: a run that failed before its first one may be begun anew with other settings."""
    entries = workdir.checkpoints.iterdir() if workdir.checkpoints.is_dir() else ()
    return any(".orbax-checkpoint-tmp" not in entry.name for entry in entries)


def _check_same(workdir: Workdir, settings: Experiment) -> None:
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    if not (workdir.config.exists() and _begun(workdir)):
        write_atomic(workdir.config, json.dumps(now, indent=2) + "\n")
        return
    then, now = _flat(_with_entries(json.loads(workdir.config.read_text()), type(settings))), _flat(now)
    # A setting that is younger than the run: the run was made with what is its default now.
    then = {key: value for key, value in _flat(_defaults(type(settings))).items() if key in now} | then
    free = (*FREE, "run.steps") if settings.optim.schedule == "constant" else FREE  # a constant rate can go on longer
    for key in sorted(then.keys() | now.keys()):
        if key not in free and not key.startswith(HOSTS) and then.get(key) != now.get(key):
            raise UserError(
                f"{workdir.path} holds a run with {key}={then.get(key)!r}, this one has {now.get(key)!r}; "
                "set --config.workdir to a new folder, or delete this one"
            )


def _defaults(cls: type) -> dict[str, Any]:
    """What settings hold when nobody sets them; without sections of several kinds, each of which has its own keys."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if kinds(hints[field.name]):
            continue
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return json.loads(json.dumps(found, default=dataclasses.asdict))


def _with_entries(then: dict[str, Any], cls: type) -> dict[str, Any]:
    """Settings whose named entries, such as those of ``rewards``, have defaults where a field is younger than they."""
    found = dict(then)
    for name, hint in typing.get_type_hints(cls).items():
        named = typing.get_args(hint)[1] if typing.get_origin(hint) is Mapping else None
        if isinstance(named, type) and dataclasses.is_dataclass(named) and isinstance(then.get(name), dict):
            found[name] = {key: _defaults(named) | entry for key, entry in then[name].items()}
    return found


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, part in tree.items() for k, v in _flat(part, f"{prefix}.{key}" if prefix else key).items()}


def write_learned(path: pathlib.Path, rows: Iterable[Mapping[str, Any]], run: pathlib.Path) -> None:
    """The records that a run is to learn from, as JSON lines; they stay what they were once it has begun.

    Args:
        path: of the file.
        rows: the records.
        run: the folder of the run.

    Raises:
        UserError: when the run has learned from others.
    """
    text, workdir = as_lines(rows), Workdir(run)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    if path.exists() and (_begun(workdir) or workdir.summary.exists()):
        raise UserError(
            f"{path}: the run in {run} learned from these records, and by the settings they are others now; set "
            "--config.workdir to a new folder, or delete that of the run and those that go on from it"
        )
    write_atomic(path, text)


def finished(workdir: Workdir, steps: int) -> bool:
    """Whether the summary of a run of so many steps lies there."""
    return workdir.summary.exists() and json.loads(workdir.summary.read_text()).get("steps") == steps
