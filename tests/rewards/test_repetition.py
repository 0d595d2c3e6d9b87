import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.rewards.combine import score_all
from lqlm.rewards.repetition import cosine, cosine_length, repetition_penalty
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.tasks.base import AnswerFormat, Item, Task

TASK = Task("t", [Item("q", "7", "a")], [Item("r", "8", "b")], strict=AnswerFormat.NUMBER.extract)


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("this is a test without any repeats", 3, 0.0),
        ("this this this this", 2, -2 / 3),  # three pairs, one of them distinct
        ("This is this is this is this is", 3, -(1 - 2 / 6)),
        ("a b a b", 1, -0.5),
        ("one two", 3, 0.0),
        ("", 3, 0.0),
        (" \n", 3, 0.0),
        ("\0\ud800", 1, 0.0),
    ],
)
def test_repetition_by_hand(text, n, value):
    assert repetition_penalty(text, n) == pytest.approx(value)
    assert repetition_penalty(text, n, worst=-0.1) == pytest.approx(value / 10)


@given(st.text() | st.lists(st.sampled_from("ab"), max_size=30).map(" ".join), st.integers(1, 4))
def test_repetition_is_bounded(text, n):
    assert -1.0 < repetition_penalty(text, n) <= 0.0


def test_repetition_of_a_huge_text_is_the_worst():
    assert repetition_penalty("so " * 333_333) == pytest.approx(-1.0, abs=1e-5)
    assert repetition_penalty("x" * 10**6) == 0.0


def test_cosine_by_hand():
    """TRL's own numbers: half the limit gives 0.75 for a right and -0.75 for a wrong answer."""
    reward = lambda text, n, **options: cosine_length(text, "7", n, False, TASK, limit=100, **options)  # noqa: E731
    assert reward("7", 50) == pytest.approx(0.75) and reward("8", 50) == pytest.approx(-0.75)
    assert (reward("7", 0), reward("7", 100), reward("7", 900)) == pytest.approx((1.0, 0.5, 0.5))
    assert (reward("8", 0), reward("8", 100), reward("", 900)) == pytest.approx((-1.0, -0.5, -0.5))
    assert reward("7", 25, right=(2.0, 1.0)) == pytest.approx(1.5 + 0.5 * math.cos(math.pi / 4))
    assert cosine_length("7", "7", 100, True, TASK, limit=100, exceeded=-10.0) == -10.0
    assert cosine_length("7", "7", 50, True, TASK, limit=100) == pytest.approx(0.75)


@given(st.integers(0, 200), st.integers(0, 50))
def test_short_and_right_is_best_short_and_wrong_is_worst(n, more):
    assert cosine(n + more, 100, 1.0, 0.5) <= cosine(n, 100, 1.0, 0.5) + 1e-12
    assert cosine(n + more, 100, -1.0, -0.5) >= cosine(n, 100, -1.0, -0.5) - 1e-12


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 2, "worst": 1.0}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="needs n >= 1"):
        repetition_penalty("x", **bad)
    with pytest.raises(ValueError, match="limit"):
        cosine(3, 0, 1.0, 0.5)


def test_they_are_rewards():
    specs = [
        RewardSpec("repetition", "lqlm.rewards.repetition.repetition_penalty", 0.5, {"n": 1}),
        RewardSpec("cosine", "lqlm.rewards.repetition.cosine_length", 1.0, {"limit": 10, "right": [1.0, 0.0]}),
    ]
    samples = [Sample("q", "7", "7", 0, False), Sample("q", "no no", "7", 10, False)]
    assert score_all(bind_all(specs, TASK), samples, task=TASK, timeout_s=5.0).total.tolist() == [1.0, -0.75]
