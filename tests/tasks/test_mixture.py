"""Several tasks as one: each item is asked and judged by its own."""

import dataclasses

import pytest

from lqlm.errors import UserError
from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import score
from lqlm.tasks.mixture import mixture_task
from lqlm.tasks.prompts import PromptsConfig, prompts_task
from lqlm.tasks.think import ThinkFormat, think_task

SUMS = arithmetic_task(ArithmeticConfig(operators="+", heldout=3, train=6, template="{expression}="))
FORM = ThinkFormat()
THOUGHT = think_task(SUMS, FORM, system="Think.")
GENERAL = prompts_task(PromptsConfig(source="rows", heldout=1), [(c, {"prompt": c}) for c in "abcd"])


def test_every_item_is_asked_and_judged_by_its_own_task():
    task = mixture_task({"plain": SUMS, "thought": THOUGHT, "general": GENERAL})
    assert len(task.train) == 6 + 6 + 3 and len({item.id for item in (*task.train, *task.heldout)}) == 15 + 7
    for item in task.train:
        own = {"plain": SUMS, "thought": THOUGHT, "general": GENERAL}[item.scenario]
        assert task.of(item) is own and task.messages(item) == own.messages(item)
        reply = FORM.write("Add.", item.answer)
        assert score(task, item.answer, item) == score(own, item.answer, item)
        assert score(task, reply, item) == score(own, reply, item)
    first = task.train[0]
    assert (
        score(task, first.answer, first).strict == 1.0 and score(task, FORM.write("x", first.answer), first).strict == 0
    )


def test_scenarios_come_by_turns():
    """So that the first held-out items, which evaluations are limited to, are of all of them."""
    task = mixture_task({"plain": SUMS, "general": GENERAL})
    assert [item.scenario for item in task.heldout] == ["plain", "general", "plain", "plain"]
    assert [item.scenario for item in task.train[:6]] == ["plain", "general"] * 3


def test_one_question_may_be_in_two_scenarios():
    held = dataclasses.replace(SUMS, train=[*SUMS.train, SUMS.heldout[0]], heldout=SUMS.heldout[1:])
    assert len(mixture_task({"one": SUMS, "other": held}).heldout) == 5


def test_a_reward_is_given_the_items_own_task():
    task = mixture_task({"plain": SUMS, "thought": THOUGHT})
    plain, thought = task.train[:2]
    samples = [Sample(item.question, item.answer, item.answer, 1, False, item) for item in (plain, thought)]
    bound = bind_all([RewardSpec("form", "lqlm.rewards.functions.format_reward")], task)
    assert score_all(bound, samples, task=task, timeout_s=5.0).total.tolist() == [1.0, 0.0]


def test_a_mixture_by_itself_reads_no_answer():
    task = mixture_task({"plain": SUMS, "general": GENERAL})
    for read in (task.strict, task.lenient):
        with pytest.raises(UserError, match="ask the item's own task"):
            read("4")
    for wrong in ({}, {"one": SUMS}, {"one": SUMS, "two": task}):
        with pytest.raises(UserError, match="give two or more tasks, none a mixture itself"):
            mixture_task(wrong)
