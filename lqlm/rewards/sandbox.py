"""A model's program in a process of its own, with limits.

It protects the run from what models write by accident: endless loops, memory, fork bombs, deleted or overwritten files,
downloads, a wait for input, an early exit, floods of output.  Where `filtered` holds (Linux on x86-64 and arm64) the
kernel refuses the program every socket, child process, signal to others and file opened for writing.

It is no security boundary against a determined attacker.  The program runs as the same user, reads every file that this
user can read, shares the kernel, and the interpreter with its tests: by looking into the frames below its own it can
report tests as passed, and an object that equals everything passes them honestly.  Elsewhere (macOS, other processors)
only the limits on time, memory and file size hold, and those as far as the system keeps them; the network stays open.
Run programs of unknown origin in a virtual machine.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

_JAIL = pathlib.Path(__file__).with_name("jail.py")
_MOST_OUTPUT = 1 << 20  # bytes of reports; more is a program that talks on the channel


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_s: processor seconds, whole.
        wall_s: seconds on the clock, for one that sleeps or waits.
        memory_mb: MiB of address space, of which the interpreter needs about 30.
    """

    cpu_s: int = 2
    wall_s: float = 4.0
    memory_mb: int = 512

    def __post_init__(self) -> None:
        if not (isinstance(self.cpu_s, int) and self.cpu_s >= 1 and self.wall_s > 0 and self.memory_mb >= 64):
            raise ValueError(f"{self}: needs whole cpu_s >= 1, wall_s > 0, memory_mb >= 64")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the tests.

    Attributes:
        passed: one for each test; a test that was not reached is not passed.
        filtered: the list of allowed system calls was in force.
    """

    passed: tuple[bool, ...]
    filtered: bool


def run_tests(program: str, statements: Sequence[tuple[str, bool]], limits: Limits = Limits()) -> Outcome:
    """Runs a program, then statements in its namespace, in a fresh isolated interpreter that sees the standard library.

    The interpreter gets an empty environment, an empty folder that is deleted afterwards, no input, and nowhere to
    print to.  It is started fresh (never forked: JAX has threads), and its process group is killed in the end.

    Args:
        program: Python source; its module is not named ``__main__``.
        statements: (source, whether it is a test) in order; a test passes when it raises nothing.
        limits: what the program may use.

    >>> run_tests("def add(a, b): return a + b", [("assert add(1, 2) == 3", True), ("add(1)", True)]).passed
    (True, False)
    """
    secret = secrets.token_hex(16)
    request = json.dumps({"program": program, "statements": list(statements), "secret": secret}).encode()
    readable, writable = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="lqlm-") as folder:
            try:
                process = _start(writable, folder, limits)
            finally:
                os.close(writable)
            reports = _reports(process, request, readable, time.monotonic() + limits.wall_s)
    finally:
        os.close(readable)
    lines = {tuple(line.split()[1:]) for line in reports.split("\n") if line.startswith(f"{secret} ")}
    passed = tuple((str(i), "1") in lines for i, (_, is_test) in enumerate(statements) if is_test)
    return Outcome(passed, ("filter", "1") in lines)


@functools.cache
def filtered() -> bool:
    """Whether this machine refuses programs the network, child processes and writing: log it before training."""
    return run_tests("", []).filtered


def _start(report: int, folder: str, limits: Limits) -> subprocess.Popen[bytes]:
    arguments = [str(report), str(limits.cpu_s), str(limits.memory_mb)]
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-B", str(_JAIL), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Nothing of ours, so that -E and with it -I has nothing to do; -I would ignore the seed, and the order of sets
        # would decide rewards.
        env={"PYTHONHASHSEED": "0"},
        cwd=folder,
        start_new_session=True,
        pass_fds=(report,),
    )


def _reports(process: subprocess.Popen[bytes], request: bytes, readable: int, until: float) -> str:
    """What the process wrote until its end or the limit; afterwards it and its children are gone."""
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it reads all of it before it runs anything
            process.stdin.write(request)
        return _read(readable, until).decode("ascii", "replace")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(descriptor: int, until: float) -> bytes:
    poll, data = select.poll(), b""
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while len(data) < _MOST_OUTPUT and poll.poll(max(0.0, until - time.monotonic()) * 1000):
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            break
        data += chunk
    return data
