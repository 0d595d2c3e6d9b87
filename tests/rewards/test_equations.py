"""Arithmetic written line by line: what holds, what does not, and what cannot be gamed or hung."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.rewards.equations import equation_steps, exact_value, holds
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task

numbers = st.integers(-99, 99)


@given(numbers, numbers, st.sampled_from("+-x/*\u00d7\u2212\u00f7"))
def test_every_sum_is_worked_out_exactly(a, b, sign):
    python = {"x": "*", "\u00d7": "*", "\u2212": "-", "\u00f7": "/"}.get(sign, sign)
    value = None if python == "/" and b == 0 else Fraction(eval(f"Fraction({a}) {python} Fraction({b})"))
    assert exact_value(f"({a}) {sign} ({b})") == value
    if value is not None:
        written = f"{value.numerator} / {value.denominator}"
        assert holds(f"{a} {sign} ({b}) = {written}") and not holds(f"{a} {sign} ({b}) = {written} + 1")


NOTHING = (
    "",
    "2 +",
    "a + 1",
    "2 ** 9",
    "9**9**9**9",
    "4 // 2",
    "007",
    "1_000",
    "1e9",
    "(" * 150 + "1",
    "1 if 1 else 2",
    "1 2",
)


@pytest.mark.parametrize("text", [*NOTHING, "1+" * 200 + "1", "(1)(2)", "-", ". + 1", "2 + 2 # 3"])
def test_what_has_no_value(text):
    assert exact_value(text) is None and not holds(f"{text} = {text}")


def test_decimals_are_exact():
    assert holds("0.1 + 0.2 = 0.3") and holds("1 / 3 = 2 / 6") and not holds("1 / 3 = 0.3333333333333333")


def test_steps():
    assert equation_steps(["1 + 2 = 3", "3 x 5 = 15"], "15") == [1.0, 1.0]
    assert equation_steps(["1 + 2 = 4", "4 x 5 = 20"], "15") == [0.0, 0.0]  # it holds, but is not the answer
    assert equation_steps(["1 + 2 = 3", "3 x 4 = 15"], "15") == [1.0, 0.0]  # the answer, but it does not hold
    assert equation_steps(["so we begin", "15"], "15") == [0.0, 1.0]
    assert equation_steps(["7 + 8 = 15"] * 3, "15") == [1.0, 0.0, 0.0]  # nothing is earned by saying it again
    assert equation_steps(["nothing"], "15") == [0.0] and equation_steps([], "15") == []


def test_the_solutions_of_the_arithmetic_task_earn_everything():
    task = arithmetic_task(ArithmeticConfig(terms=(2, 4), brackets=True, digits=2, train=60, heldout=4))
    for item in task.train:
        lines = item.solution.split("\n")
        repeated = len(lines) - len(set(lines))
        assert sum(equation_steps(lines, item.answer)) == len(lines) - repeated
