"""Rewards of code: the program in a completion against unit tests, in the process of :mod:`lqlm.rewards.sandbox`.

Read there what the sandbox protects from and what not.  The tests are the sample's reference answer, Python source as
in MBPP and HumanEval.
"""

import ast
import functools
import re

from lqlm.errors import UserError
from lqlm.rewards.sandbox import Limits, run_tests

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = ("", "python", "python3", "py")


def extract_code(text: str) -> str | None:
    """The last complete fenced block of Python, or of no named language; None when there is none.

    >>> extract_code("So:\\n```python\\nx = 1\\n```\\nIt runs.")
    'x = 1\\n'
    """
    found, opened = None, None
    for fence in _FENCE.finditer(text):
        if opened is None or fence[1]:  # a fence that names a language opens, also where one was left open
            opened = fence
            continue
        if opened[1].lower() in _PYTHON:
            found = text[opened.end() + 1 : fence.start()]
        opened = None
    return found


@functools.lru_cache(maxsize=4096)
def split_tests(source: str) -> tuple[tuple[str, bool], ...]:
    """Statements of a test file, each with whether it is a test: an assert, or a bare call such as ``check(f)``.

    >>> split_tests("import math\\nassert f(4) == math.sqrt(16)")
    (('import math', False), ('assert f(4) == math.sqrt(16)', True))
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"unit tests {source[:40]!r}: not Python ({error}); mend the reference answer") from None
    split = tuple((ast.unparse(node), _is_test(node)) for node in body)
    if not any(test for _, test in split):
        raise UserError(f"unit tests {source[:40]!r}: no assert and no call among them; mend the reference answer")
    return split


def _is_test(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def unit_tests_passed(
    completion: str, answer: str, cpu_s: int = 2, wall_s: float = 4.0, memory_mb: int = 512, setup: str = ""
) -> float:
    """Tests passed / tests, where a test that raises, exits or is not reached within the limits is not passed.

    A completion without a complete block of code gives 0, and so does an empty one.

    Args:
        completion: text of the model; the last fenced block of Python is run.
        answer: the tests: each top-level assert and bare call is one, the other statements prepare them.
        cpu_s: processor seconds for the program and its tests, whole.
        wall_s: seconds on the clock; below the time limit of the run, or that one counts the sample as a failure.
        memory_mb: MiB of memory.
        setup: Python source that is put before the program, such as imports.

    >>> unit_tests_passed("```python\\ndef twice(n): return n + 2\\n```", "assert twice(2) == 4\\nassert twice(3) == 6")
    0.5
    """
    statements, limits = split_tests(answer), Limits(cpu_s, wall_s, memory_mb)
    code = extract_code(completion)
    if code is None or not code.strip():
        return 0.0
    passed = run_tests(f"{setup}\n{code}", statements, limits).passed
    return sum(passed) / len(passed)


def all_unit_tests_passed(
    completion: str, answer: str, cpu_s: int = 2, wall_s: float = 4.0, memory_mb: int = 512, setup: str = ""
) -> float:
    """1 when every test is passed, otherwise 0; arguments as `unit_tests_passed`.

    >>> all_unit_tests_passed("```python\\ndef twice(n): return n * 2\\n```", "assert twice(3) == 6")
    1.0
    """
    return float(unit_tests_passed(completion, answer, cpu_s, wall_s, memory_mb, setup) == 1.0)
