import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.rewards.format import tag_count, think_format
from lqlm.tasks.think import ThinkFormat

GOOD = "<think>3 + 4 is 7.</think><answer>7</answer>"


@pytest.mark.parametrize(
    ("text", "form", "tags"),
    [
        (GOOD, 1, 1),
        ("<think>\n3 + 4\nis 7.\n</think>\n\n<answer>\n7\n</answer>\n", 1, 1),
        (f" \n{GOOD}\n ", 1, 1),
        ("<think>a < b > c <b></think><answer>7</answer>", 1, 1),
        (f"Well, {GOOD}", 0, 1),
        (f"{GOOD} Good.", 0, 1),
        ("<think>x</think> so <answer>7</answer>", 0, 1),
        ("<answer>7</answer><think>x</think>", 0, 1),
        ("<think>x<answer>7</answer></think>", 0, 1),
        ("</think>x<think><answer>7</answer>", 0, 1),
        ("<think></think><answer>7</answer>", 0, 1),
        ("<think>x</think><answer> \n</answer>", 0, 1),
        ("<think>x <think> y</think><answer>7</answer>", 0, 0.75),
        (GOOD + GOOD, 0, 0),
        ("<think>x</think><answer>7", 0, 0.75),
        ("<think>x</think>7", 0, 0.5),
        ("<THINK>x</THINK><answer>7</answer>", 0, 0.5),
        ("7", 0, 0),
        ("", 0, 0),
        (" \n\t", 0, 0),
        ("\0\ud800", 0, 0),
        ("<think>\0\ud800</think><answer>\0</answer>", 1, 1),
    ],
)
def test_forms(text, form, tags):
    assert (think_format(text), tag_count(text)) == (form, tags)


def test_other_names():
    text = "<reasoning>x</reasoning><solution>7</solution>"
    assert (
        think_format(text, "reasoning", "solution")
        == tag_count(text, think_tag="reasoning", answer_tag="solution")
        == 1.0
    )
    assert think_format(GOOD, "reasoning", "solution") == 0.0
    for names in (("think", "think"), ("", "answer"), ("a b", "c"), ("<think>", "answer")):
        with pytest.raises(UserError, match="give two different names"):
            think_format(GOOD, *names)


TEXT = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "7", " ", "x"]), max_size=12).map(
    "".join
)


@given(TEXT | st.text())
def test_the_strict_form_implies_the_graded(text):
    form, tags = think_format(text), tag_count(text)
    assert form in (0.0, 1.0) and tags in (0.0, 0.25, 0.5, 0.75, 1.0) and form <= tags


@given(st.text(alphabet="abc \n", min_size=1).filter(str.strip), st.text(alphabet="xyz", min_size=1))
def test_what_is_written_is_read(reasoning, answer):
    text = ThinkFormat().write(reasoning, answer)
    assert think_format(text) == 1.0 and ThinkFormat().sections(text) == (reasoning.strip(), answer)


@pytest.mark.parametrize("part", ["<think>", "x", " ", "<answer></answer>"])
def test_long_texts_take_linear_time(part):
    text, start = part * (10**6 // len(part)), time.monotonic()
    assert think_format(text) == tag_count(text) == 0.0
    assert time.monotonic() - start < 10.0
