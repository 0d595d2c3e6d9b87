"""Step rewards of arithmetic that is written line by line: each line an equation, the last one with the answer."""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from lqlm.tasks.base import last_number, numbers_equal

_LONGEST = 200  # characters of an equation; a longer one does not hold
_FORM = re.compile(r"[0-9+\-*/(). ]+")
_WRITTEN = str.maketrans("x\u00d7\u00b7\u00f7\u2212\u2013", "***/--")  # times twice, a dot, divided by, minus, a dash
_OPERATIONS: dict[type[ast.AST], Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def exact_value(text: str) -> Fraction | None:
    """The value of an expression of numbers, ``+ - x / ( )``, exactly; None where it has none.

    >>> exact_value("(2 + 1) x 3 / 6"), exact_value("2 +"), exact_value("1 / (2 - 2)")
    (Fraction(3, 2), None, None)
    """
    written = text.translate(_WRITTEN).strip()
    if len(written) > _LONGEST or not _FORM.fullmatch(written) or "**" in written or "//" in written:
        return None
    try:
        return _value(ast.parse(written, mode="eval").body, written)
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST, source: str) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value(node.left, source), _value(node.right, source))
    if isinstance(node, ast.UnaryOp):
        return _OPERATIONS[type(node.op)](_value(node.operand, source))
    if isinstance(node, ast.Constant):
        return Fraction(ast.get_source_segment(source, node) or "")  # "0.1" is a tenth, not the float next to it
    raise ValueError("neither a number nor an operation")


def holds(equation: str) -> bool:
    """Whether all sides of an equation are expressions of the same value, and there are two at least.

    >>> holds("12 x 3 = 36"), holds("2 + 2 = 5"), holds("36"), holds("1 + 2 = 3 = 6 / 2")
    (True, False, False, True)
    """
    values = [exact_value(side) for side in equation.split("=")]
    return len(values) > 1 and values[0] is not None and all(value == values[0] for value in values)


def equation_steps(steps: Sequence[str], answer: str) -> list[float]:
    """1 for each step that is an equation, holds and is new; the last one must end in the answer, too.

    A step that stands there already is worth 0: what is right can be repeated for ever.  The last step may also be the
    answer without an equation.  Whether an equation serves the problem is not asked.

    Args:
        steps: texts of the steps.
        answer: reference answer, a number.

    >>> equation_steps(["2 + 2 = 4", "4 x 6 = 25", "25 - 1 = 24"], "23")
    [1.0, 0.0, 0.0]
    >>> equation_steps(["2 + 2 = 4", "2 + 2 = 4", "Answer: 23"], "23")
    [1.0, 0.0, 1.0]
    """
    if not steps:
        return []
    first = [step not in steps[:place] for place, step in enumerate(steps)]
    worth = [float(new and holds(step)) for new, step in zip(first, steps)]
    found = last_number(steps[-1])
    right = found is not None and numbers_equal(found, answer)
    return [*worth[:-1], float(right and first[-1] and ("=" not in steps[-1] or holds(steps[-1])))]
