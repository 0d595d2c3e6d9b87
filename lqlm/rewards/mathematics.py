"""Symbolic mathematics: is the completion's final answer equal to the reference, however either is written?

math-verify (Apache-2.0) decides, with sympy, in a process of its own that is bounded in processor time and memory (see
:mod:`lqlm.rewards.math_worker`), so "9^{9^{9^9}}" costs one sample its reward and nothing else.  An optional extra:
``pip install 'lqlm[math]'``.  Only where Python has `resource` and `select.poll`, so not on Windows.
"""

import functools
import pathlib
import re
import sys

from lqlm.rewards.worker import Worker
from lqlm.tasks.base import last_number
from lqlm.tasks.think import tag_content

CPU_S = 2.0
MEMORY_MB = 1024
_TAIL = 4000  # an answer is looked for in so many characters at the end
_LONGEST = 1000  # characters of an answer; a longer one is wrong

_ANNOUNCED = re.compile(r"(?:answer\s*(?:is|:|=)|^####)[\s:*]*([^\n]+)", re.IGNORECASE | re.MULTILINE)
# A dollar opens before no blank and closes after none and before no digit: otherwise it is money.
_SEGMENT = re.compile(
    r"\$\$([^$]+)\$\$|\$(?!\s)([^$\n]+)(?<!\s)\$(?!\d)|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|\*|$)|,\s+(?=[a-zA-Z]{2})|\s(?:because|since|which|as|for|so)\s")
_RIGHT_SIDE = re.compile(
    r"=[ \t]*\$?(?![^=\n]*(?<![\\a-zA-Z])[a-zA-Z]{2})([^=\n$]*[^=\n$.\s])[. \t]*$", re.MULTILINE
)  # without words
_WORDS = re.compile(r"[^\W\d_]{3,}|[^\W\d_]{2,}(?:\s+[^\W\d_]+)+")


def boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{...}``, with its braces matched; None when there is none that ends.

    >>> boxed(r"so \\boxed{6}, no: \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    start, depth = text.index("{", start) + 1, 1
    for match in re.finditer(r"\\.|[{}]", text[start : start + _LONGEST + 2], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


def marked_answer(text: str) -> str | None:
    """The answer that is marked as one: in ``<answer>`` tags, in ``\\boxed{}``, or in a box inside of the tags.

    >>> marked_answer(r"<think>\\boxed{6}</think> <answer> 7 </answer>"), marked_answer("It is 7.")
    ('7', None)
    """
    inner = tag_content(text, "answer")
    found = boxed(text if inner is None else inner)
    found = inner if found is None else found
    return None if found is None or not found.strip() else found.strip()


def final_answer(text: str) -> str | None:
    """The marked answer; else what follows the last "answer is" or "####"; else the last expression.

    The last expression is whatever ends last: one in dollars or ``\\(...\\)``, what stands right of the last "=" of a
    line and holds no words, or a number.  Only the last 4,000 characters are read for what is not marked.

    >>> final_answer("The answer is 2x + 1, since it grows."), final_answer("So $y = 3$."), final_answer("3 + 4 = 7")
    ('2x + 1', 'y = 3', '7')
    """
    found = marked_answer(text)
    if found is not None:
        return found
    tail = text[-_TAIL:]
    announced, _ = _last(_ANNOUNCED, tail)
    if announced:
        return _last(_SEGMENT, announced)[0] or _SENTENCE_END.split(announced, maxsplit=1)[0].strip(" *") or None
    expression, end = max((_last(_SEGMENT, tail), _last(_RIGHT_SIDE, tail)), key=lambda found: found[1])
    last_digit = next((i for i in reversed(range(len(tail))) if tail[i] in "0123456789"), -1)
    return expression if end > last_digit else last_number(tail)


def _last(pattern: re.Pattern[str], text: str) -> tuple[str | None, int]:
    """(the group that took part in the last match, where it ends), or (None, -1)."""
    found = None
    for match in pattern.finditer(text):
        found = match
    return (found[found.lastindex or 0], found.end(found.lastindex or 0)) if found else (None, -1)


@functools.lru_cache(maxsize=4)
def _worker(cpu_s: float, memory_mb: int) -> Worker:
    script = pathlib.Path(__file__).with_name("math_worker.py")
    # -P: the folder of the script is not searched for modules.  The clock is a backstop for a process that only waits.
    return Worker([sys.executable, "-P", str(script), str(cpu_s), str(memory_mb)], wall_s=10 * cpu_s + 10)


def math_equal(answer: str, reference: str, cpu_s: float = CPU_S, memory_mb: int = MEMORY_MB) -> bool:
    """Whether two expressions, LaTeX or plain, are the same number, formula, set, interval, matrix or relation.

    ``simplify(a - b) = 0`` where nothing simpler decides; decimals are rounded to six places; units, currency and a
    percent sign are left aside; "x = 5" is 5 when the reference is.  So math-verify 0.9, whose limits are these too: i
    is a letter like any other, and equations are equal when lhs - rhs is, not when multiples of each other.  Words are
    compared as words, not as products of their letters.  What is no expression or needs more than the limits equals
    its own text only, and what is longer than 1,000 characters nothing.

    Args:
        answer: the model's.
        reference: the right one.
        cpu_s: processor seconds for one comparison.
        memory_mb: MiB of memory of the process that compares.

    >>> math_equal(r"\\frac{1}{2}", "0.5"), math_equal("(x+1)^2", "x^2 + 2x + 1"), math_equal("x", "y")
    (True, True, False)
    """
    answer, reference = answer.strip(), (boxed(reference) or reference).strip()
    if max(len(answer), len(reference)) > _LONGEST or not answer or not reference:
        return False
    if _WORDS.fullmatch(reference) or answer == reference:
        return answer.casefold() == reference.casefold()
    return _worker(cpu_s, memory_mb).ask({"answer": answer, "reference": reference}) is True


def math_correct(completion: str, answer: str, cpu_s: float = CPU_S, memory_mb: int = MEMORY_MB) -> float:
    """1 when the `final_answer` of the completion equals the reference (`math_equal`), wherever it stands.

    0 for a completion without one, and so for an empty one.

    Args:
        completion: text of the model.
        answer: the reference, LaTeX or plain.
        cpu_s: processor seconds for one comparison.
        memory_mb: MiB of memory of the process that compares.

    >>> math_correct("Adding up, we get 3/4 + 1/4 = 1.", "1"), math_correct("No idea.", "1")
    (1.0, 0.0)
    """
    found = final_answer(completion)
    return float(found is not None and math_equal(found, answer, cpu_s, memory_mb))


def math_correct_strict(completion: str, answer: str, cpu_s: float = CPU_S, memory_mb: int = MEMORY_MB) -> float:
    """`math_correct` for an answer that is marked as one, in a box or in answer tags: the accuracy reward of R1.

    Args:
        completion: text of the model.
        answer: the reference, LaTeX or plain.
        cpu_s: processor seconds for one comparison.
        memory_mb: MiB of memory of the process that compares.

    >>> math_correct_strict(r"\\boxed{0.75}", r"\\frac{3}{4}"), math_correct_strict("It is 3/4.", "3/4")
    (1.0, 0.0)
    """
    found = marked_answer(completion)
    return float(found is not None and math_equal(found, answer, cpu_s, memory_mb))
