"""A helper process that answers one question at a time, bounded in time, and started again when it dies.

What may run for ever, take all the memory or crash the interpreter is asked there instead of here.  The process is
started fresh, never forked: JAX has threads, and a forked copy of them can hang.
"""

import contextlib
import json
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from lqlm.errors import UserError

_START_S = 120.0  # imports on a machine that is busy with something else


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was not yet written
            if stream is not None:
                stream.close()
    process.wait()


class Worker:
    """A process that reads one JSON value a line on stdin and writes one a line on stdout.

    Its first line is ``null`` when it is ready, or a text that says why it cannot be.  It starts at the first question,
    and a new one takes its place after every death, every overrun and every `lifetime` answers.  It ends when its
    stdin is closed, so it does not outlive this process.

    Attributes:
        command: how to start it.
        wall_s: seconds for one answer.
        lifetime: answers after which it is replaced, so that what its libraries keep does not add up.
        starts: how often it has been started.
    """

    def __init__(self, command: Sequence[str], *, wall_s: float, lifetime: int = 2000) -> None:
        self.command, self.wall_s, self.lifetime, self.starts = tuple(command), wall_s, lifetime, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None
        self._buffer, self._ready, self._answered = b"", False, 0
        self._lock = threading.Lock()

    def ask(self, question: Any) -> Any | None:
        """The answer, or None when the process died of the question or ran longer than `wall_s`."""
        with self._lock:
            if self._process is None or self._answered >= self.lifetime:
                self._start()
            if not self._ready:  # outside of the guard below: a caller's own time limit may fall into a slow start
                self._await_start()
            try:
                self._write(json.dumps(question).encode() + b"\n")
                answer = self._read_line(time.monotonic() + self.wall_s)
            except BaseException:  # also a time limit of the caller's: a late answer must not meet the next question
                self._close()
                raise
            if answer is None:
                self._close()
                return None
            self._answered += 1
            return json.loads(answer)

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _start(self) -> None:
        self._close()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A fixed seed: the order of sets must not decide what a library finds within its time.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C is for the run, which ends its worker itself
        )
        self._end = weakref.finalize(self, _stop, self._process)
        self._buffer, self._ready, self._answered, self.starts = b"", False, 0, self.starts + 1

    def _await_start(self) -> None:
        line = self._read_line(time.monotonic() + _START_S)
        reason = "it ended or hung before it was ready" if line is None else json.loads(line)
        if reason is not None:
            self._close()
            raise UserError(f"worker {' '.join(self.command)[-80:]!r} did not start: {reason}")
        self._ready = True

    def _write(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died between two questions: the reading says so
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _read_line(self, until: float) -> bytes | None:
        """The next line, or None at the end of the stream or of the time."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return None
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
