"""Integer arithmetic of adjustable difficulty, as in "2 + 2 x 6".

The problems of a difficulty form a finite space that is numbered, so that a small one is enumerated whole and a large
one sampled without repeats.  A hash of the expression decides the side it falls on, the same on every machine, and
expressions that differ only in the order of terms or factors ("3 + 4", "4 + 3") never fall on different sides.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from lqlm.errors import UserError
from lqlm.tasks.base import AnswerFormat, Item, Task

# operand, operator, operand, ...; an operand is an int or a bracketed Expression.
Expression = tuple[Any, ...]

_ENUMERABLE = 1 << 16  # spaces up to this size are enumerated


@dataclasses.dataclass(frozen=True)
class ArithmeticConfig:
    """Difficulty, size and wording of an arithmetic task.

    Attributes:
        operators: any of "+", "-", "*".
        digits: digits of each operand; 1 is 0..9, 2 is 10..99.
        operands: smallest and largest operand, instead of `digits`.
        terms: operands in an expression, one number or (fewest, most) in equal shares.
        brackets: also expressions with one pair of brackets, from three terms on.
        train: training problems, at most (a small space may hold fewer).
        heldout: held-out problems, exactly.
        shots: solved examples in each prompt, taken from neither set.
        seed: of the split and of the samples, so that runs with other seeds share their held-out problems.
        template: the question; {expression} and {instruction} are filled in.
        times: how "*" is written.
        answer_format: the strict format, a value of `AnswerFormat`; its instruction fills the template.
        system: system prompt.
    """

    operators: str = "+-*"
    digits: int = 1
    operands: tuple[int, int] | None = None
    terms: int | tuple[int, int] = 2
    brackets: bool = False
    train: int = 1024
    heldout: int = 128
    shots: int = 0
    seed: int = 0
    template: str = "What is {expression}? {instruction}"
    times: str = "x"
    answer_format: str = "number"
    system: str | None = None

    def __post_init__(self) -> None:
        low, high = self.operand_range
        fewest, most = self.term_range
        _check(
            sorted(self.operators) == sorted(set(self.operators) & set("+-*")) != [],
            f"operators={self.operators!r}",
            'give some of "+", "-", "*", each once, as in "+-*"',
        )
        _check(self.operands is not None or self.digits >= 1, f"digits={self.digits}", "give 1 or more")
        _check(0 <= low <= high, f"operands={self.operands}", "give (smallest, largest) with 0 <= smallest <= largest")
        _check(2 <= fewest <= most, f"terms={self.terms}", "give 2 or more, or (fewest, most)")
        _check(not self.brackets or most > 2, f"brackets with terms={self.terms}", "brackets need 3 terms or more")
        _check("{expression}" in self.template, f"template={self.template!r}", "it must contain {expression}")
        _check(self.train >= 1, f"train={self.train}", "give 1 or more")
        _check(self.heldout >= 1, f"heldout={self.heldout}", "give 1 or more")
        _check(self.shots >= 0, f"shots={self.shots}", "give 0 or more")
        known = [str(value) for value in AnswerFormat]
        _check(self.answer_format in known, f"answer_format={self.answer_format!r}", f"give one of {', '.join(known)}")

    @property
    def operand_range(self) -> tuple[int, int]:
        """Smallest and largest operand."""
        if self.operands is not None:
            return self.operands
        return (0 if self.digits == 1 else 10 ** (self.digits - 1), 10**self.digits - 1)

    @property
    def term_range(self) -> tuple[int, int]:
        """Fewest and most operands of an expression."""
        return (self.terms, self.terms) if isinstance(self.terms, int) else self.terms


def _check(good: bool, what: str, cure: str) -> None:
    if not good:
        raise UserError(f"arithmetic task: {what} cannot be used; {cure}")


def _signed_products(expression: Expression) -> list[tuple[int, list[Any]]]:
    """The expression as a sum of (sign, factors): precedence, in one place."""
    products: list[tuple[int, list[Any]]] = [(1, [expression[0]])]
    for operator, operand in zip(expression[1::2], expression[2::2], strict=True):
        if operator == "*":
            products[-1][1].append(operand)
        else:
            products.append((1 if operator == "+" else -1, [operand]))
    return products


def evaluate(expression: Expression) -> int:
    """Value of an expression: brackets first, then products, then sums.

    >>> evaluate((2, "+", 2, "*", 6)), evaluate(((2, "+", 2), "*", 6))
    (14, 24)
    """
    value = lambda operand: evaluate(operand) if isinstance(operand, tuple) else operand  # noqa: E731
    return sum(sign * math.prod(map(value, factors)) for sign, factors in _signed_products(expression))


def steps(expression: Expression, times: str) -> list[str]:
    """The evaluation of an expression, one operation a step: brackets first, then products, then sums from the left.

    >>> steps(((2, "+", 2), "*", 6, "-", 1), "x")
    ['2 + 2 = 4', '4 x 6 = 24', '24 - 1 = 23']
    """
    found: list[str] = []
    words = list(expression)
    for place, word in enumerate(words):
        if isinstance(word, tuple):
            found += steps(word, times)
            words[place] = evaluate(word)
    while len(words) > 1:
        place = words.index("*") if "*" in words else 1
        value = evaluate(tuple(words[place - 1 : place + 2]))
        found.append(f"{render(tuple(words[place - 1 : place + 2]), times)} = {value}")
        words[place - 1 : place + 2] = [value]
    return found


def canonical(expression: Expression) -> str:
    """A key that does not change when terms or factors change places: "3 + 4" and "4 + 3" share one."""
    key = lambda operand: f"({canonical(operand)})" if isinstance(operand, tuple) else str(operand)  # noqa: E731
    products = [f"{sign:+d}*" + "*".join(sorted(map(key, factors))) for sign, factors in _signed_products(expression)]
    return " ".join(sorted(products))


def render(expression: Expression, times: str) -> str:
    """An expression as text.

    >>> render(((2, "+", 2), "*", 6), "x")
    '(2 + 2) x 6'
    """
    words = [f"({render(word, times)})" if isinstance(word, tuple) else str(word) for word in expression]
    return " ".join(times if word == "*" else word for word in words)


def _bracket_places(terms: int, brackets: bool) -> list[tuple[int, int] | None]:
    """Ranges [first, end) of terms that can be bracketed: two terms or more, but not all."""
    pairs = [pair for pair in itertools.combinations(range(terms + 1), 2) if 2 <= pair[1] - pair[0] < terms]
    return [None, *pairs] if brackets else [None]


def problem_count(config: ArithmeticConfig, terms: int) -> int:
    """Number of distinct expressions with so many terms."""
    low, high = config.operand_range
    places = len(_bracket_places(terms, config.brackets))
    return (high - low + 1) ** terms * len(config.operators) ** (terms - 1) * places


def expression_at(index: int, terms: int, config: ArithmeticConfig) -> Expression:
    """Expression number `index` of `problem_count(config, terms)`: the digits of a mixed-radix number."""
    low, high = config.operand_range
    places = _bracket_places(terms, config.brackets)
    index, place = divmod(index, len(places))
    words: list[Any] = []
    for _ in range(terms):
        index, operand = divmod(index, high - low + 1)
        index, operator = divmod(index, len(config.operators)) if words else (index, 0)
        words += [config.operators[operator]] * bool(words) + [low + operand]
    if (pair := places[place]) is not None:
        first, end = 2 * pair[0], 2 * pair[1] - 1
        words[first:end] = [tuple(words[first:end])]
    return tuple(words)


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest(), "big")


def _shuffled(terms: int, config: ArithmeticConfig) -> Iterator[Expression]:
    """Every expression of so many terms once, in an order given by hashes."""
    count = problem_count(config, terms)
    if count <= _ENUMERABLE:
        everything = (expression_at(index, terms, config) for index in range(count))
        # Equal keys come together, so the end of the held-out set parts at most one class from its like.
        yield from sorted(everything, key=lambda e: (_digest(config.seed, canonical(e)), render(e, "*")))
        return
    seen: set[int] = set()
    draws = itertools.count()
    while len(seen) < count:
        index = _digest(config.seed, terms, next(draws)) % count
        if index not in seen:
            seen.add(index)
            yield expression_at(index, terms, config)


def _in_turn(streams: Iterable[Iterator[Expression]]) -> Iterator[Expression]:
    """One from each stream in turn, until all have ended."""
    waiting = list(streams)
    while waiting:
        for stream in tuple(waiting):
            try:
                yield next(stream)
            except StopIteration:
                waiting.remove(stream)


def arithmetic_item(expression: Expression, config: ArithmeticConfig) -> Item:
    """The question and the answer of an expression."""
    text = render(expression, config.times)
    instruction = AnswerFormat(config.answer_format).instruction
    question = config.template.replace("{expression}", text).replace("{instruction}", instruction).strip()
    solution = "\n".join(steps(expression, config.times))
    return Item(question, str(evaluate(expression)), f"arithmetic/{text}", solution)


def arithmetic_task(config: ArithmeticConfig) -> Task:
    """Problems of one difficulty, split into disjoint training and held-out items."""
    fewest, most = config.term_range
    stream = _in_turn(_shuffled(terms, config) for terms in range(fewest, most + 1))
    heldout = list(itertools.islice(stream, config.heldout))
    held = {canonical(expression) for expression in heldout}
    rest = (expression for expression in stream if canonical(expression) not in held)
    shots = list(itertools.islice(rest, config.shots))
    train = list(itertools.islice(rest, config.train))
    if not train:
        total = sum(problem_count(config, terms) for terms in range(fewest, most + 1))
        raise UserError(
            f"arithmetic task: operators={config.operators!r}, operands {config.operand_range}, terms={config.terms} "
            f"give {total} distinct problems, too few for heldout={config.heldout}, shots={config.shots} and "
            "a training set; lower heldout, or raise digits or terms, or add operators"
        )
    answer_format = AnswerFormat(config.answer_format)
    examples = [arithmetic_item(expression, config) for expression in shots]
    return Task(
        name="arithmetic",
        train=[arithmetic_item(expression, config) for expression in train],
        heldout=[arithmetic_item(expression, config) for expression in heldout],
        strict=answer_format.extract,
        system=config.system,
        shots=tuple((item.question, answer_format.write(item.answer)) for item in examples),
    )
