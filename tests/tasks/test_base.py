import collections
import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.tasks.base import AnswerFormat, Item, Score, Task, batch_at, batches, score


def make_items(n, start=0):
    return [Item(f"What is {i} + 0?", str(i), f"sum/{i}") for i in range(start, start + n)]


def make_task(**changes):
    return Task(
        **{
            "name": "t",
            "train": make_items(5),
            "heldout": make_items(3, 10),
            "strict": AnswerFormat.NUMBER.extract,
            **changes,
        }
    )


@given(n=st.integers(1, 30), size=st.integers(1, 70), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_every_item_comes_once_per_epoch(n, size, seed, epochs):
    items = make_items(n)
    steps = -(-n * epochs // size)
    stream = [item for step in range(steps) for item in batch_at(items, step, size, seed)]
    for epoch in range(epochs):
        counts = collections.Counter(stream[epoch * n : (epoch + 1) * n])
        assert counts == collections.Counter(items)


def test_epochs_and_seeds_have_other_orders():
    items = make_items(50)
    orders = [[item.id for item in batch_at(items, epoch, 50, seed)] for epoch, seed in [(0, 0), (1, 0), (0, 1)]]
    assert len({tuple(order) for order in orders} | {tuple(item.id for item in items)}) == 4


def test_the_order_is_the_same_on_every_machine():
    assert [item.answer for item in batch_at(make_items(10), 0, 12, seed=3)] == [
        "0", "7", "5", "6", "8", "1", "2", "9", "4", "3", "8", "3",
    ]  # fmt: skip


@given(start=st.integers(0, 20), size=st.integers(1, 7))
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(start, size):
    task = make_task()
    whole = itertools.islice(batches(task, size, seed=1, start_step=0), start, start + 5)
    resumed = itertools.islice(batches(task, size, seed=1, start_step=start), 5)
    assert list(whole) == list(resumed)


@pytest.mark.parametrize(("items", "step", "size"), [([], 0, 1), (make_items(1), 0, 0), (make_items(1), -1, 1)])
def test_impossible_batches(items, step, size):
    with pytest.raises(UserError, match="batch of"):
        batch_at(items, step, size, 0)


def test_scores():
    task, item = make_task(), Item("q", "1024", "i")
    assert score(task, "1,024", item) == Score(1.0, 1.0)
    assert score(task, "It is 1024.", item) == Score(0.0, 1.0)
    assert score(task, "1023", item) == Score(0.0, 0.0)
    assert score(task, "no idea", item) == Score(0.0, 0.0)


def test_without_a_reference_nothing_is_right():
    """Not even an answer that is as empty as it is."""
    for how in (AnswerFormat.NUMBER, AnswerFormat.TAG):
        task = make_task(strict=how.inner, lenient=how.inner)
        assert score(task, "", Item("q", "", "i")) == Score(0.0, 0.0)
        assert score(task, "<answer></answer>", Item("q", "", "i")) == Score(0.0, 0.0)


def test_a_verifier_takes_the_place_of_equality():
    task = make_task(verify=lambda prediction, item: 0.25 if prediction == item.id else 0.0)
    assert score(task, "12", Item("q", "999", "12")) == Score(0.25, 0.25)


def test_messages():
    item = make_items(1)[0]
    assert make_task().messages(item) == [{"role": "user", "content": item.question}]
    roles = [m["role"] for m in make_task(system="Be brief.", shots=(("1 + 1?", "2"),)).messages(item)]
    contents = [m["content"] for m in make_task(system="Be brief.", shots=(("1 + 1?", "2"),)).messages(item)]
    assert roles == ["system", "user", "assistant", "user"]
    assert contents == ["Be brief.", "1 + 1?", "2", item.question]


def test_no_question_is_trained_on_and_held_out():
    with pytest.raises(UserError, match="1 training questions are held out too"):
        make_task(heldout=make_items(2, start=4))
    with pytest.raises(UserError, match="twice"):
        make_task(heldout=make_items(1, 9) * 2)
