import sys

import pytest

from lqlm.errors import UserError
from lqlm.tasks.base import Item, Score, score
from lqlm.tasks.gym import GymConfig, gym_task


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 'lqlm\[gym\]'"):
        gym_task(GymConfig("chain_sum"))


def make(name, **changes):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    return gym_task(GymConfig(name, **{"train": 20, "heldout": 8, **changes}))


def test_numbers():
    task = make("chain_sum", options={"max_terms": 2})
    item = task.heldout[0]
    assert score(task, f"<answer>{item.answer}</answer>", item) == Score(1.0, 1.0)
    assert score(task, f"That makes {item.answer}.", item) == Score(0.0, 1.0)
    assert score(task, "<answer>123456789</answer>", item).strict < 0.1
    assert len(task.messages(item)) == 2


def test_a_task_with_many_right_answers_uses_its_verifier():
    task = make("countdown")
    item = task.heldout[0]
    turned = f"({item.answer}) + 0 * 0"
    assert score(task, f"So:\n<answer>{item.answer}</answer>", item) == Score(1.0, 1.0)
    assert score(task, f"So:\n{item.answer}", item) == Score(0.0, 1.0)
    assert task.verify(f"({item.answer})", item) == 1.0  # another text, as right
    assert task.verify(turned, item) < 1.0  # zeros are not among its numbers
    assert task.verify("1/0 ((", item) < 0.1


def test_splits_are_distinct_and_repeatable():
    task, again = make("leg_counting"), make("leg_counting")
    assert task.train == again.train and task.heldout == again.heldout
    assert task.heldout != make("leg_counting", seed=7).heldout
    ids = [item.id for item in (*task.train, *task.heldout)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("no_such", {}, "'no_such'"),
        ("chain_sum", {"colour": 1}, "colour"),
        ("chain_sum", {"min_terms": -1}, "min_terms"),
    ],
)
def test_bad_names_and_options(name, options, words):
    with pytest.raises(UserError, match=words):
        make(name, options=options)


def test_a_question_from_elsewhere_is_an_error():
    with pytest.raises(UserError, match="none of its items"):
        score(make("chain_sum"), "7", Item("What?", "7", "x"))


@pytest.mark.slow
def test_reference_answers_of_many_generators_score_one():
    for name in (
        "basic_arithmetic",
        "gsm_symbolic",
        "spell_backward",
        "prime_factorization",
        "mini_sudoku",
        "bitwise_arithmetic",
    ):
        task = make(name, heldout=3, train=3)
        for item in task.heldout:
            assert score(task, f"<answer>{item.answer}</answer>", item).strict == 1.0, name
