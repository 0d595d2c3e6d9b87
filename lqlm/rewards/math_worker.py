"""The process in which `lqlm.rewards.mathematics` compares expressions; it imports nothing of lqlm.

Text becomes an expression through math-verify's LaTeX grammar (ANTLR), which builds sympy objects one by one.  Sympy's
own `parse_expr` and `sympify` evaluate their text as Python code, and math-verify reads every number through them:
here they get a function that knows the literals of numbers only, so that no text runs as code, whoever passes it on.
"""

# ruff: noqa: RUF001 (it reads what people write)
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

# How mathematics is written without LaTeX.
_SIGNS = {
    "−": "-", "–": "-", "×": r" \times ", "·": r" \cdot ", "÷": r" \div ", "π": r" \pi ", "∞": r" \infty ", "²": "^2",
    "³": "^3", "≤": r" \leq ", "≥": r" \geq ", "≠": r" \neq ", "½": r"\frac{1}{2}", "**": "^",
}  # fmt: skip
_PLAIN = (
    (re.compile(r"(?:√|(?<![\\a-zA-Z])sqrt)\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*(\w)"), r"\\sqrt{\1}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp|pi|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"(?<=[0-9])\s+[a-zA-Z]{3,}(?:\s+[a-zA-Z]+)*[.\s]*$"), ""),  # "10 dollars", a unit that is no symbol
)

_LITERAL = re.compile(r"(?P<minus>-?)\s*(?P<kind>Integer|Float)\s*\(\s*'?(?P<digits>[0-9.eE+-]+)'?\s*\)")


def as_latex(text: str) -> str:
    """An answer, written in LaTeX or plainly, as LaTeX without delimiters.

    >>> as_latex("$x^2$"), as_latex("x**(1/2) + sqrt(2)"), as_latex("50%.")
    ('x^2', 'x^{1/2} + \\\\sqrt{2}', '50\\\\%')
    """
    for mark in (r"\$", "$", r"\(", r"\)", r"\[", r"\]"):
        text = text.replace(mark, " ")
    for sign, latex in _SIGNS.items():
        text = text.replace(sign, latex)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;: ")


def limit(memory_mb: int) -> None:
    """This process gets so much memory, and its death costs no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # its default is death, even in the midst of a C function


def _number(code: str, *_: Any) -> Any:
    """In the place of sympy's `eval_expr`: the number that a literal's code stands for, and nothing else."""
    import sympy

    match = _LITERAL.fullmatch(code.strip())
    if match is None:
        raise ValueError("text is not evaluated here")
    return (-1 if match["minus"] else 1) * getattr(sympy, match["kind"])(match["digits"])


def comparison() -> Callable[[str, str], bool]:
    """The function (answer, reference) -> whether they are equal."""
    import sympy.parsing.sympy_parser as parser
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]

    def equal(answer: str, reference: str) -> bool:
        sides = [parse(f"${as_latex(side)}$", config, parsing_timeout=0) for side in (reference, answer)]
        return bool(all(sides) and verify(*sides, timeout_seconds=0))

    # Tables are built and modules imported at the first use, and some modules of sympy's evaluate text of their own.
    for warm in ((r"\sin^2 x + \frac{\sqrt{x}}{2}", "7.5"), ("2x = 1", "x = 0.5"), (r"\{1, 2\}", "[1, 2)")):
        equal(*warm)
    parser.eval_expr = _number
    return equal


def _answer(equal: Callable[[str, str], bool], question: Mapping[str, str], cpu_s: float) -> bool:
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # processor time: what is paid does not depend on the machine's load
    try:
        return equal(question["answer"], question["reference"])
    except (Exception, MemoryError, RecursionError):  # not an expression, or more of one than there is room for
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(cpu_s: float, memory_mb: int) -> None:
    """Answers questions until stdin ends."""
    limit(memory_mb)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not disturb the replies

    def reply(value: Any) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        equal = comparison()
    except ImportError as error:
        reply(f"{error}; install the extra: pip install 'lqlm[math]'")
        return
    reply(None)
    for line in sys.stdin:
        reply(_answer(equal, json.loads(line), cpu_s))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
