import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.rewards.functions import (
    correct,
    correct_strict,
    format_reward,
    length_penalty,
    soft_overlong,
    truncated_penalty,
)
from lqlm.tasks.base import AnswerFormat, Item, Task

TASK = Task("t", [Item("q", "7", "a")], [Item("r", "8", "b")], strict=AnswerFormat.NUMBER.extract)


@pytest.mark.parametrize(
    ("text", "lenient", "strict", "form"),
    [("7", 1, 1, 1), ("It is 7.", 1, 0, 0), ("8", 0, 0, 1), ("", 0, 0, 0), ("7.0", 1, 1, 1)],
)
def test_correctness_and_format(text, lenient, strict, form):
    assert correct(text, "7", TASK) == lenient
    assert correct_strict(text, "7", TASK) == strict
    assert format_reward(text, TASK) == form


def test_soft_overlong_by_hand():
    """DAPO's own numbers: a limit of 20,480 tokens with a buffer of 4,096."""
    value = lambda n: soft_overlong(n, limit=20480, buffer=4096)  # noqa: E731
    assert value(0) == value(16384) == 0.0
    assert value(16384 + 1024) == -0.25
    assert value(20480) == value(20481) == value(10**6) == -1.0


@given(st.integers(0, 100), st.integers(1, 50), st.integers(0, 50))
def test_soft_overlong_never_grows(n, buffer, more):
    limit = buffer + 10
    assert -1.0 <= soft_overlong(n + more, limit, buffer) <= soft_overlong(n, limit, buffer) <= 0.0


@pytest.mark.parametrize("buffer", [0, -1, 11])
def test_soft_overlong_needs_a_buffer_within_the_limit(buffer):
    with pytest.raises(ValueError, match="buffer"):
        soft_overlong(5, limit=10, buffer=buffer)


def test_the_rest():
    assert length_penalty(10, per_token=0.5) == -5.0
    assert (truncated_penalty(True), truncated_penalty(False)) == (-1.0, 0.0)
