"""The process in which `lqlm.rewards.sandbox` runs a model's program; it imports nothing of lqlm.

Before the program it limits itself, for good: processor time, memory, no child processes, no files written, and on
Linux (x86-64 and arm64) a list of allowed system calls (seccomp) that holds no socket, no fork, no signal to others and
no opening for writing.  All of it needs no privileges.
"""

import contextlib
import json
import os
import platform
import resource
import struct
import sys
import types
from collections.abc import Callable

# Number of each allowed system call; those of _READ_ONLY (and the argument that holds the flags) when they only read.
_X86_64 = (
    0, 1, 3, 4, 5, 6, 7, 8,  # read write close stat fstat lstat poll lseek
    9, 10, 11, 12, 13, 14, 15,  # mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
    17, 19, 20, 21, 22, 23, 24, 25, 28,  # pread64 readv writev access pipe select sched_yield mremap madvise
    32, 33, 34, 35, 36, 37, 38, 39,  # dup dup2 pause nanosleep getitimer alarm setitimer getpid
    60, 63, 79, 89, 96, 97, 98, 99,  # exit uname getcwd readlink gettimeofday getrlimit getrusage sysinfo
    100, 102, 104, 107, 108, 110, 115,  # times getuid getgid geteuid getegid getppid getgroups
    131, 186, 201, 202, 204, 217, 218, 219,  # sigaltstack gettid time futex sched_getaffinity getdents64 set_tid
    228, 229, 230, 231, 262, 267, 269,  # clock_gettime clock_getres clock_nanosleep exit_group newfstatat readlinkat
    270, 271, 273, 292, 293, 318, 324,  # pselect6 ppoll set_robust_list dup3 pipe2 getrandom membarrier
    332, 334, 439,  # statx rseq faccessat2
)  # fmt: skip
_AARCH64 = (
    17, 23, 24, 48, 57, 59, 61, 62,  # getcwd dup dup3 faccessat close pipe2 getdents64 lseek
    63, 64, 65, 66, 67, 72, 73, 78, 79, 80,  # read write readv writev pread64 pselect6 ppoll readlinkat, stats
    93, 94, 96, 98, 99, 101, 102, 103,  # exit exit_group set_tid_address futex set_robust_list nanosleep get/setitimer
    113, 114, 115, 123, 124, 128, 132,  # clock_gettime clock_getres clock_nanosleep sched_*, restart, sigaltstack
    134, 135, 139, 153, 158, 160, 163, 165,  # rt_sigaction _procmask _return times getgroups uname getrlimit getrusage
    169, 172, 173, 174, 175, 176, 177, 178, 179,  # gettimeofday getpid getppid getuid/euid/gid/egid gettid sysinfo
    214, 215, 216, 222, 226, 233, 278, 283, 291, 293, 439,  # brk munmap mremap mmap mprotect madvise getrandom ...
)  # fmt: skip
_READ_ONLY = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}  # open(path, flags), openat(folder, path, flags)
_ALLOWED = {"x86_64": _X86_64, "aarch64": _AARCH64}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_WRITES = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of classic BPF
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # the call; EPERM; the process


def filter_program(machine: str) -> bytes:
    """The list of allowed calls as a seccomp program (an array of `struct sock_filter`).

    >>> len(filter_program("x86_64")) % 8
    0
    """
    operation = lambda code, k, then=0, other=0: struct.pack("=HBBI", code, then, other, k)  # noqa: E731
    allow, deny = operation(_RETURN, _ALLOW), operation(_RETURN, _DENY)
    program = [operation(_LOAD, 4), operation(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0), operation(_RETURN, _KILL)]
    program.append(operation(_LOAD, 0))
    for number in _ALLOWED[machine]:
        program += [operation(_JUMP_EQUAL, number, 0, 1), allow]
    for number, argument in _READ_ONLY[machine].items():
        test = [operation(_LOAD, 16 + 8 * argument), operation(_JUMP_SET, _WRITES, 0, 1), deny, allow]
        program += [operation(_JUMP_EQUAL, number, 0, len(test)), *test]
    return b"".join([*program, deny])


def filter_calls() -> bool:
    """Allows this process the listed system calls only; whether that worked."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ALLOWED:
        return False
    import ctypes

    program = filter_program(machine)
    held = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    death, no_new_privileges, seccomp, by_filter = 1, 38, 22, 2
    libc.prctl(death, 9, 0, 0, 0)  # not to outlive the run
    return libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0 and libc.prctl(seccomp, by_filter, pointer, 0, 0) == 0


def limit(cpu_s: int, memory_mb: int) -> None:
    """The limits of POSIX.  That on processes does not hold for root, that on memory not on macOS."""
    limits = {"CPU": cpu_s, "AS": memory_mb << 20, "NPROC": 0, "FSIZE": 0, "NOFILE": 64, "CORE": 0}
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # what is limited more tightly from outside
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def passes(code: types.CodeType, namespace: dict[str, object]) -> bool:
    """Whether a statement runs to its end."""
    try:
        exec(code, namespace)
    except BaseException:  # an exit is a failure as well
        return False
    return True


def main(report: int, cpu_s: int, memory_mb: int) -> None:
    """Runs the program, then each statement in turn, and reports those that are tests on the descriptor `report`."""
    request = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    # Compiled and bound before the program runs, which may replace what the names stand for.
    statements = [(compile(source, "<test>", "exec"), is_test) for source, is_test in request["statements"]]
    write, leave, secret = os.write, os._exit, request["secret"]
    module = types.ModuleType("solution")  # not __main__: what a program shows when it is run is not wanted here
    sys.modules["solution"] = module
    limit(cpu_s, memory_mb)
    write(report, f"{secret} filter {int(filter_calls())}\n".encode())
    attempt: Callable[[types.CodeType, dict[str, object]], bool] = passes
    try:
        program = compile(request["program"], "<program>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        leave(0)
    attempt(program, module.__dict__)
    for index, (code, is_test) in enumerate(statements):
        good = attempt(code, module.__dict__)
        if is_test:
            write(report, f"{secret} {index} {int(good)}\n".encode())
    leave(0)  # without the program's exit handlers and threads


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
