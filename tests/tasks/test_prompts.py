"""Prompts of a data set: every form of a prompt, answers or none, a split that nothing but the prompts decides."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.tasks.base import score
from lqlm.tasks.prompts import PromptsConfig, prompts_task

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How are you?"},
]
DIALOGUE = "\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant: Well."


def task_of(*prompts, heldout=1, **changes):
    """The task of some prompts, or of whole records."""
    rows = [row if isinstance(row, dict) else {"prompt": row} for row in prompts]
    named = [(f"row {i}", row) for i, row in enumerate(rows)]
    return prompts_task(PromptsConfig(source="rows", heldout=heldout, **changes), named)


def items(task):
    return sorted([*task.train, *task.heldout], key=lambda item: item.id)


def test_a_prompt_is_a_text_a_conversation_or_a_dialogue():
    task = task_of("2 + 2?", CHAT, DIALOGUE, system="Be brief.")
    text, chat, dialogue = items(task)
    assert task.messages(text) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert task.messages(chat) == CHAT  # it has a system prompt of its own
    assert task.messages(dialogue) == [{"role": "system", "content": "Be brief."}, *CHAT[1:]]


def test_pairs_of_dialogues_give_prompts():
    rows = [{"chosen": DIALOGUE.replace("Hi", name), "rejected": "?"} for name in ("Hey", "Yo")]
    found = items(task_of(*rows, prompt="chosen"))
    assert {item.question for item in found} == {"How are you?"}  # told apart by the turns before
    assert [item.before[0] for item in found] == [("user", "Hey!"), ("user", "Yo!")]


def test_numbers_are_compared_as_numbers_and_words_as_words():
    numbers = task_of({"prompt": "2 + 2?", "answer": 4}, {"prompt": "Half?", "answer": "0.5"}, "Greet me.")
    four, half, bare = items(numbers)
    assert (four.answer, half.answer, bare.answer) == ("4", "0.5", "")
    assert score(numbers, "It is 4.0", four) == score(numbers, "so 4", four)
    assert (score(numbers, "4", four).strict, score(numbers, "It is 4", four).strict) == (1.0, 0.0)
    assert score(numbers, "It is 4", four).lenient == 1.0
    words = task_of({"prompt": "Capital of France?", "answer": "Paris"}, "b", answer_format="tag")
    paris = items(words)[0]
    assert score(words, "It is <answer>Paris</answer>", paris).strict == 1.0
    assert score(words, "Well\nParis", paris).lenient == 1.0 and score(words, "Well\nParis", paris).strict == 0.0
    assert score(words, "", paris).lenient == 0.0


def test_what_is_asked_twice_is_one_problem():
    task = task_of("a", "a ", "a", "b", heldout=1)
    assert [item.question for item in items(task)] == ["a", "a ", "b"]


@given(st.permutations([f"question {i}" for i in range(12)]), st.integers(1, 11))
def test_the_split_is_one_of_the_prompts_alone(prompts, heldout):
    task, sorted_task = task_of(*prompts, heldout=heldout), task_of(*sorted(prompts), heldout=heldout)
    held = {item.question for item in task.heldout}
    assert held == {item.question for item in sorted_task.heldout} and len(held) == heldout
    assert held.isdisjoint(item.question for item in task.train) and len(task.train) == 12 - heldout
    assert [item.question for item in task.train] == [p for p in prompts if p not in held]  # in their order


@pytest.mark.parametrize(
    "row, words",
    [
        ({"question": "a"}, r'row 0: no field "prompt" \(fields: question\); add it, or name another'),
        ({"prompt": 3}, 'row 0: the field "prompt" holds int instead of text'),
        ({"prompt": []}, "row 0: .* is no list of messages"),
        ({"prompt": " "}, "row 0: .* does not end with words of the user"),
        ({"prompt": [{"role": "system", "content": "a"}]}, "does not end with words of the user"),
        ({"prompt": "a", "answer": ["4"]}, 'row 0: the field "answer" holds list; write a text or a number'),
        ({"prompt": "a", "answer": True}, "holds bool"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(row, words):
    with pytest.raises(UserError, match=words):
        task_of(row, "b")


def test_something_is_left_to_learn_from():
    with pytest.raises(UserError, match="rows has 1 different prompts, 1 to hold out"):
        task_of("a", "a")
    for wrong in ({"source": ""}, {"heldout": 0}, {"limit": -1}, {"answer_format": "roman"}):
        with pytest.raises(UserError, match="prompts task"):
            PromptsConfig(**({"source": "rows"} | wrong))
