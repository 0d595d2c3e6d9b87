import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.rewards.functions import correct, correct_strict, format_reward
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item, Score, Task, score
from lqlm.tasks.think import ThinkFormat, tag_content, think_task

PLAIN = ArithmeticConfig(template="What is {expression}?")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<a>x</a>", "x"),
        ("<a>x</a><a>y</a>", "y"),
        ("<a><a>x</a>", "x"),
        ("<a>x</a></a>", "x"),
        ("<a></a>", ""),
        ("<a>x", None),
        ("x</a>", None),
        ("</a><a>", None),
        ("", None),
    ],
)
def test_tag_content(text, content):
    assert tag_content(text, "a") == content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>3 + 4</think><answer>7</answer>", Score(1, 1)),
        ("<think>3 + 4</think>\n<answer> 7.0 </answer>\n", Score(1, 1)),
        ("<think>3 + 4</think><answer>8</answer>", Score(0, 0)),
        ("<think>7</think><answer>8</answer>", Score(0, 0)),
        ("<think>8</think><answer>It is 7.</answer>", Score(0, 1)),  # not the answer alone
        ("<answer>7</answer>, not 8", Score(0, 1)),
        ("<think>8</think><answer>none</answer> 7", Score(0, 1)),
        ("7", Score(0, 1)),
        ("<think>7", Score(0, 1)),
        ("", Score(0, 0)),
        (" \n", Score(0, 0)),
        ("\0\ud800", Score(0, 0)),
    ],
)
def test_right_form_and_right_answer(text, expected):
    task, item = think_task(arithmetic_task(PLAIN)), Item("q", "7", "i")
    assert score(task, text, item) == expected
    assert (correct_strict(text, "7", task), correct(text, "7", task)) == (expected.strict, expected.lenient)


def test_the_format_reward_is_r1_s():
    task = think_task(arithmetic_task(PLAIN))
    assert format_reward("<think>no</think><answer>8</answer>", task) == 1.0
    assert format_reward("<answer>7</answer>", task) == format_reward("", task) == 0.0


def test_the_chat():
    plain = arithmetic_task(ArithmeticConfig(template="What is {expression}?", shots=2, system="Be brief."))
    task = think_task(plain)
    messages = task.messages(task.heldout[0])
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert all(tag in messages[0]["content"] for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    assert messages[-1]["content"] == plain.heldout[0].question and "only" not in messages[-1]["content"]
    for (question, reply), (_, answer) in zip(task.shots, plain.shots):
        assert score(task, reply, Item(question, answer, "")) == Score(1.0, 1.0)
    assert (task.train, task.heldout, task.name) == (plain.train, plain.heldout, "think/arithmetic")
    assert think_task(plain, system="Mine.").system == "Mine."


def test_the_instruction_shows_the_form():
    form = ThinkFormat("reasoning", "solution")
    shown = form.instruction[form.instruction.index("<reasoning>") :]
    assert form.sections(shown) == ("reasoning", "final answer")
    assert think_task(arithmetic_task(PLAIN), form).strict("<reasoning>x</reasoning><solution>7</solution>") == "7"


def test_a_verifier_sees_the_answer_alone():
    seen = []
    items = [Item("q", "7", "a")], [Item("r", "8", "b")]
    task = Task("t", *items, strict=str.strip, lenient=lambda text: text, verify=lambda p, i: seen.append(p) or 0.25)
    assert score(think_task(task), "<think>x</think><answer> red </answer>", items[0][0]) == Score(0.25, 0.25)
    assert seen == ["red", " red "]


@pytest.mark.parametrize("names", [("think", "think"), ("", "a"), ("1", "a"), ("a>", "b"), ("a", "b c")])
def test_bad_tags(names):
    with pytest.raises(UserError, match="two different names"):
        ThinkFormat(*names)


@given(st.text(), st.integers(-(10**6), 10**6))
def test_any_text_has_scores(text, value):
    task, item = think_task(arithmetic_task(PLAIN)), Item("q", str(value), "i")
    found = score(task, text, item)
    assert found.strict in (0.0, 1.0) and found.lenient in (0.0, 1.0)
    assert score(task, ThinkFormat().write("because", str(value)), item) == Score(1.0, 1.0)


def test_long_texts():
    task = think_task(arithmetic_task(PLAIN))
    for part in ("<think>", "<answer>", "7", " "):
        assert score(task, part * (10**6 // len(part)), Item("q", "7", "i")) == Score(0.0, 0.0)
    reply = ThinkFormat().write("so " * (10**6 // 3), "7")
    assert score(task, reply, Item("q", "7", "i")) == Score(1.0, 1.0)
