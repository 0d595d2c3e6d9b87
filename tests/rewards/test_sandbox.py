"""What a model's program can do to the run: nothing that these tests try."""

import json
import os
import pathlib
import platform
import struct
import subprocess
import sys
import time

import pytest

from lqlm.rewards import jail, sandbox
from lqlm.rewards.sandbox import Limits, filtered, run_tests

SHORT = Limits(cpu_s=1, wall_s=60.0)
needs_filter = pytest.mark.skipif(not filtered(), reason="no list of allowed system calls on this machine")


def passed(program, *tests, limits=SHORT):
    return run_tests(program, [(test, True) for test in tests], limits).passed


def test_each_test_is_judged_by_itself():
    program = "def f(n):\n    if n == 3: raise KeyError\n    return n * n"
    assert passed(program, "assert f(2) == 4", "assert f(3) == 9", "assert f(4) == 8", "f(1)") == (
        True,
        False,
        False,
        True,
    )
    statements = [
        ("import math", False),
        ("assert math.isqrt(f(5)) == 5", True),
        ("0 / 0", False),
        ("assert f(1)", True),
    ]
    assert run_tests(program, statements, SHORT).passed == (True, True)


@pytest.mark.parametrize(
    "program",
    [
        "def f(: pass",
        "f = 1\nraise SystemExit(0)",
        "import os; os._exit(0)",
        "import sys; sys.exit()",
        "import ctypes; ctypes.string_at(0)",
        "f = lambda: f()\nf()",
        "x = bytearray(1 << 32)",
        "\0",
        "\ud800 = 1",
        "(" * 10_000,
        "raise BaseException",
        "print('y' * 10**7); import sys; sys.stderr.write('n' * 10**7); undefined",
        "input()",
    ],
)
def test_broken_and_ending_programs_pass_nothing(program):
    assert passed(f"{program}\ng = 1", "assert g == 1") == (False,)


def test_a_test_that_exits_does_not_pass_and_the_later_ones_still_count():
    program = "import os, sys\ndef f(n):\n    if n: sys.exit(0)\n    return n"
    assert passed(program, "f(1)", "assert f(0) == 0") == (False, True)
    assert passed("import os", "os._exit(0)", "assert True") == (False, False)


def test_processor_time_is_limited_and_what_was_passed_before_stays():
    start = time.monotonic()
    assert passed("", "assert True", "while True: pass", "assert True") == (True, False, False)
    assert time.monotonic() - start < 30.0
    assert passed("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "assert True") == (
        False,
    )


def test_the_clock_is_limited():
    start = time.monotonic()
    waiting = "import time\ntime.sleep(60)"
    assert passed(waiting, "assert True", limits=Limits(cpu_s=1, wall_s=0.5)) == (False,)
    assert time.monotonic() - start < 30.0


def test_memory_is_limited_and_no_more_than_that_sample_pays():
    assert passed("a = bytearray(1 << 27)", "assert len(a) == 1 << 27") == (True,)
    small = Limits(cpu_s=5, wall_s=60.0, memory_mb=64)
    assert passed("a = bytearray(1 << 27)", "assert len(a) == 1 << 27", limits=small) == (False,)


def test_the_program_sees_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "x")
    program = "import os, sys"
    assert (
        passed(
            program,
            "assert 'API_TOKEN' not in os.environ and len(os.environ) <= 2",  # the seed, and Python's own LC_CTYPE
            "assert os.listdir('.') == [] and os.getcwd().startswith('/') and 'lqlm-' in os.getcwd()",
            "assert sys.stdin.read() == ''",
            "assert not any('site-packages' in p for p in sys.path)",
            "assert __name__ == 'solution'",
            "import dataclasses\n@dataclasses.dataclass\nclass A:\n    b: 'int' = 3\nassert A() == A(3)",
        )
        == (True,) * 6
    )
    folder = passed(program, "assert len(os.listdir('/proc/self/fd')) <= 8")
    assert folder == (True,) or not pathlib.Path("/proc/self/fd").exists()


def test_sets_have_the_same_order_in_every_run():
    seen = "assert [*{'a', 'b', 'c', 'd', 'e', 'f'}] == ['%s']"
    script = "print(*{'a', 'b', 'c', 'd', 'e', 'f'}, sep='\\', \\'', end='')"
    run = subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    assert passed("", seen % run.stdout) == (True,)


@needs_filter
@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.socket()",
        "import socket; socket.socketpair()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true') and None; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import os, signal; signal.pthread_kill(__import__('threading').get_ident(), 0)",
        "import threading; threading.Thread(target=print).start()",
        "open('x', 'w')",
        "open('/tmp/lqlm-never', 'a')",
        "open('/dev/null', 'r+')",
        "import os; os.mkdir('d')",
        "import os; os.unlink(VICTIM)",
        "import os; os.rename(VICTIM, VICTIM + '2')",
        "import os; os.truncate(VICTIM, 0)",
        "import os; os.chmod(VICTIM, 0)",
        "import os; os.setsid()",
        "import ctypes; ctypes.CDLL(None).prctl(1, 0) == 0 or 0 / 0",
    ],
)
def test_the_filter_refuses(deed, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    program = f"VICTIM = {str(victim)!r}"
    assert passed(program, deed, "assert open(VICTIM).read() == 'kept'") == (False, True)
    assert victim.read_text() == "kept" and os.access(victim, os.R_OK)
    assert list(tmp_path.iterdir()) == [victim] and not os.path.exists("/tmp/lqlm-never")


@needs_filter
def test_common_programs_run_under_the_filter():
    program = """
import collections, decimal, fractions, functools, heapq, itertools, json, math, random, re, statistics, string, time
import asyncio.queues, copy, dataclasses, datetime, enum, typing, bisect, operator, textwrap, unicodedata, hashlib
random.seed(); time.sleep(0.001); hashlib.sha256(b"").hexdigest(); datetime.datetime.now(); print("to nowhere")
"""
    assert passed(program, "assert math.gcd(4, 6) == 2 and json.loads('[1]') == [1] and re.findall('a', 'aa')") == (
        True,
    )


def test_reports_without_the_secret_do_not_count():
    program = """
import os
for fd in range(3, 20):
    try: os.write(fd, b"0 1\\n 0 1\\nx 0 1\\n" + b"f" * 100_000 + b"\\n")
    except OSError: pass
"""
    assert passed(program, "assert False", "assert True") == (False, True)


def test_floods_on_the_channel_end():
    program = """
import os
while True:
    for fd in range(3, 20):
        try: os.write(fd, b"x" * 4096)
        except OSError: pass
"""
    assert passed(program, "assert True") == (False,)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started, start = [], sandbox._start
    monkeypatch.setattr(sandbox, "_start", lambda *given: started.append(start(*given)) or started[-1])
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    passed("x = 1", "assert x")
    passed("import time\ntime.sleep(60)", "assert x", limits=Limits(wall_s=0.5))
    assert not list(tmp_path.iterdir())
    assert before == (set(os.listdir("/proc/self/fd")) if before else set())
    assert len(started) == 2 and all(process.returncode is not None for process in started)
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@needs_filter
def test_it_does_not_outlive_the_run(tmp_path):
    program = "import time\ntime.sleep(60)"
    script = f"""
import os
from lqlm.rewards import sandbox
start = sandbox._start
def show(*given):
    process = start(*given)
    print(process.pid, flush=True)
    return process
sandbox._start = show
sandbox.run_tests({program!r}, [], sandbox.Limits(wall_s=60.0))
"""
    run = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "TMPDIR": str(tmp_path)}}
    with subprocess.Popen([sys.executable, "-c", script], **run) as owner:
        pid = int(owner.stdout.readline())
        until = time.monotonic() + 30.0
        while "Seccomp:\t2" not in pathlib.Path(f"/proc/{pid}/status").read_text() and time.monotonic() < until:
            time.sleep(0.02)
        owner.kill()
    state = lambda: pathlib.Path(f"/proc/{pid}/stat")  # noqa: E731
    while state().exists() and ") Z " not in state().read_text() and time.monotonic() < until:
        time.sleep(0.02)
    assert not state().exists() or ") Z " in state().read_text()


@pytest.mark.parametrize("bad", [{"cpu_s": 0}, {"cpu_s": 1.5}, {"wall_s": 0}, {"memory_mb": 8}])
def test_impossible_limits(bad):
    with pytest.raises(ValueError, match="needs whole cpu_s"):
        Limits(**bad)


def run_filter(program, machine, number, *arguments):
    """Classic BPF by the book, on a `struct seccomp_data`."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *(arguments + (0,) * 6)[:6])
    instructions, place, register = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        code, then, other, k = instructions[place]
        place += 1
        if code == 0x20:
            (register,) = struct.unpack_from("=I", data, k)
        elif code == 0x15:
            place += then if register == k else other
        elif code == 0x45:
            place += then if register & k else other
        else:
            assert code == 0x06
            return k


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_by_hand(machine):
    arch, program = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine], jail.filter_program(machine)
    allow, deny, kill = 0x7FFF0000, 0x00050001, 0x80000000
    read, openat, denied = {
        "x86_64": (
            0,
            257,
            (41, 56, 57, 58, 59, 62, 82, 87, 101, 200, 234, 302, 322, 425, 435, 437, 0x40000000, 16, 72),
        ),
        "aarch64": (63, 56, (198, 220, 221, 129, 38, 35, 117, 130, 131, 261, 281, 425, 435, 437, 29, 25)),
    }[machine]
    run = lambda *given: run_filter(program, arch, *given)  # noqa: E731
    assert run(read) == allow and [run(number) for number in denied] == [deny] * len(denied)
    assert run_filter(program, arch ^ 1, read) == kill
    assert run(openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == allow
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        assert run(openat, 0, 0, flags) == deny
    assert len(program) // 8 < 4096  # the kernel's limit, and jumps are at most 255 long


def test_other_machines_have_no_filter(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert jail.filter_calls() is False


def test_a_large_program_arrives_whole():
    program = json.dumps("x" * 10**6)
    assert passed(f"x = {program}", "assert len(x) == 10**6") == (True,)
