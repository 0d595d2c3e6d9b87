# ruff: noqa: RUF001
"""TRL's rewards on the same completions: mathematics in boxes, and the cosine length reward."""

import pytest

from lqlm.rewards.mathematics import math_correct_strict
from lqlm.rewards.repetition import cosine_length
from lqlm.tasks.base import AnswerFormat, Item, Task
from tests.rewards.test_mathematics import DIFFERENT, EQUAL

pytest.importorskip("torch")
rewards = pytest.importorskip("trl.rewards")
pytest.importorskip("math_verify")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own

# What lqlm reads and TRL, which wants proper LaTeX with one operator for each thing, does not; and words, of which TRL
# compares the product of the letters.
PLAIN = {"x**2 - 1", "sqrt(2)/2", "√2", "π/2", "10 dollars.", "7 apples", "−5", "0.333333", "Paris", r"\frac12"}
WORDS = {"silent", "the city of Paris"}
LATEX = [
    (a, r, same) for pairs, same in ((EQUAL, 1.0), (DIFFERENT, 0.0)) for a, r in pairs if a and r and len(a) < 1000
]


@pytest.mark.parametrize(("answer", "reference", "same"), [row for row in LATEX if row[0] not in PLAIN | WORDS])
def test_boxed_answers(answer, reference, same):
    text = rf"We get $\boxed{{{answer}}}$."
    theirs = rewards.accuracy_reward([[{"content": text}]], [f"${reference.strip('$')}$"])
    assert math_correct_strict(text, reference) == same
    assert theirs == [same]


@pytest.mark.parametrize("n", [0, 1, 30, 50, 99, 100, 500])
def test_the_cosine_length_reward(n):
    task = Task("t", [Item("q", "7", "a")], [Item("r", "8", "b")], strict=AnswerFormat.NUMBER.extract)
    theirs = rewards.get_cosine_scaled_reward(max_len=100)
    for text in (r"\boxed{7}", r"\boxed{8}"):
        expected = theirs([[{"content": text}]], ["$7$"], [[0] * n])[0]
        assert cosine_length(text, "7", n, False, task, limit=100) == pytest.approx(expected)
