"""What a run writes while it goes: ``metrics.jsonl``, ``samples.jsonl`` and TensorBoard events.

Every line is flushed, so that a killed process loses at most the line it was writing; :meth:`MetricsWriter.truncate`
then makes the files what they were at the checkpoint, and each step stands in them exactly once.
"""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from lqlm.io.disk import clear_when_full, write_atomic

METRICS, SAMPLES, TENSORBOARD = "metrics.jsonl", "samples.jsonl", "tensorboard"


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; a line that a killed process left half-written is passed over.

    Args:
        path: of the file; an absent one has no lines.

    Returns:
        One dict a line, in the file's order.
    """
    file = pathlib.Path(path)
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return [row for line in text.split("\n")[:-1] if isinstance(row := _parse(line), dict)]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def plain(value: Any) -> float | int | bool | str | None:
    """A scalar as JSON holds it: NaN and infinities, which JSON lacks, become null.

    >>> plain(np.float32(0.5)), plain(np.nan), plain(np.int64(3))
    (0.5, None, 3)
    """
    if value is None or isinstance(value, str):
        return value
    scalar = np.asarray(value).astype(float).item() if _is_float(value) else np.asarray(value).item()
    return None if isinstance(scalar, float) and not math.isfinite(scalar) else scalar


def _is_float(value: Any) -> bool:
    return np.asarray(value).dtype.kind not in "biu"  # bfloat16 is of kind V


class MetricsWriter:
    """Appends to the metrics of one run; use it as a context manager, or close it.

    Args:
        directory: of the run; made when absent.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)
        with clear_when_full(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        self._events: RecordWriter | None = None
        self._purge: int | None = None
        self._continue()

    def _continue(self) -> None:
        """Takes step and clock from the last line, so that the wall seconds of a resumed run go on."""
        last = (read_jsonl(self.directory / METRICS) or [{"step": None, "wall": 0.0}])[-1]
        self._last_step: int | None = last["step"]
        self._start = time.monotonic() - last["wall"]

    def truncate(self, step: int) -> None:
        """Drops all from ``step`` on, and half-written lines: call it with the first step that will be written anew.

        Args:
            step: 0 begins anew.

        Raises:
            UserError: when the disk is full; the files stay as they were.
        """
        self._close_events()
        for name in (METRICS, SAMPLES):
            path = self.directory / name
            if path.exists():
                kept = [row for row in read_jsonl(path) if row["step"] < step]
                write_atomic(path, "".join(_line(row) for row in kept))
        self._purge = step
        self._continue()

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One line of metrics, and one TensorBoard point for each number in it.

        Args:
            step: higher than the last one written.
            scalars: name -> number (0-d array, Python or numpy number); evaluations of that step included.

        Raises:
            UserError: when the disk is full.
        """
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(f"step {step} after step {self._last_step}: give all metrics of a step in one call")
        row = {name: plain(value) for name, value in scalars.items()}
        wall = round(time.monotonic() - self._start, 3)
        self._append(METRICS, [{"step": step, "wall": wall, **row}])
        self._last_step = step
        numbers = {name: value for name, value in row.items() if isinstance(value, float | int)}
        self._tensorboard(step, [summary.scalar(name, float(value)) for name, value in numbers.items()])

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Completions to read, one line each, and as text in TensorBoard.

        Args:
            step: of the rollout.
            rows: each with ``prompt``, ``completion``, ``answer`` and ``rewards`` (name -> number).
        """
        lines = [{"step": step, **row, "rewards": {k: plain(v) for k, v in row["rewards"].items()}} for row in rows]
        self._append(SAMPLES, lines)
        self._tensorboard(step, [summary.text(f"sample/{n}", _markdown(row)) for n, row in enumerate(lines)])

    def close(self) -> None:
        """Closes the TensorBoard file; every line was flushed when it was written."""
        self._close_events()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        path = self.directory / name
        with clear_when_full(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))

    def _tensorboard(self, step: int, summaries: list[Any]) -> None:
        with clear_when_full(self.directory / TENSORBOARD):
            try:
                events = self._open_events()
                for one in summaries:
                    events.write(_event(step=step, summary=one))
                events.flush()
            except OSError:
                self._close_events()  # what follows a half-written record cannot be read: the next write begins a file
                raise

    def _open_events(self) -> RecordWriter:
        # The layer below SummaryWriter: without its thread, which on a full disk dies and leaves the run hanging.
        if self._events is None:
            folder = self.directory / TENSORBOARD
            folder.mkdir(exist_ok=True)
            nanoseconds = time.time_ns()
            self._events = RecordWriter(str(folder / f"events.out.tfevents.{nanoseconds // 10**9}.{nanoseconds}"))
            self._events.write(_event(file_version="brain.Event:2"))
            if self._purge is not None:
                self._events.write(_event(step=self._purge, session_log=SessionLog(status=SessionLog.START)))
        return self._events

    def _close_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):  # all that matters was flushed
                events.close()


def _event(**fields: Any) -> bytes:
    return Event(wall_time=time.time(), **fields).SerializeToString()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(row: Mapping[str, Any]) -> str:
    """A sample as TensorBoard shows it; indented lines are kept verbatim."""
    rewards = ", ".join(f"{name} {value}" for name, value in row["rewards"].items())
    parts = [("prompt", row["prompt"]), ("completion", row["completion"]), ("answer", str(row["answer"]))]
    blocks = [f"**{title}**\n\n" + "\n".join("    " + line for line in text.split("\n")) for title, text in parts]
    return "\n\n".join([*blocks, f"**rewards** {rewards}"])
