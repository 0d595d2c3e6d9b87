"""Pairs of answers to the prompts of training, as experiments.reward_model reads them.

One side is what the player did, the other is drawn from what else was legal; how it is known which is better, is said
in :class:`experiments.poker.tuning_settings.PairSettings`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.poker.ask import AskSettings
from experiments.poker.tuning_settings import PairSettings
from lqlm.errors import UserError
from lqlm.poker.answers import Answer, read_answer, write_answer
from lqlm.poker.policy import legal_answers
from lqlm.poker.state import State
from lqlm.poker.templates import TEMPLATES
from lqlm.tasks.base import Task
from lqlm.tasks.poker import big_blinds

Row = Mapping[str, Any]
T = TypeVar("T")


class Two(NamedTuple):
    """The player's own answer to a prompt, and another legal one."""

    prompt: str
    own: Answer
    other: Answer


def told_pairs(rows: Callable[[], Iterable[Row]], settings: PairSettings, ask: AskSettings, seed: int) -> Iterator[Row]:
    """The pairs of rows of ``prompts``, where the row itself tells which side is better.

    Args:
        rows: gives all rows, each time that it is called.
        settings: what is preferred.
        ask: how decisions are put into words.
        seed: of the other answers; a row's draw depends on nothing but its place.

    Yields:
        records with "prompt", "chosen" and "rejected"; the sides differ.

    Raises:
        UserError: when no row has a place in a pair.
    """
    places = [number for number, row in enumerate(rows()) if prefers(row, settings)]
    if not places:
        found = ", ".join(sorted({str(row["tier"]) for row in rows()})) or "none"
        raise UserError(
            f"pairs: no decision of the tiers {', '.join(settings.best + settings.worst)} (there are: {found}); set "
            "pairs.best and pairs.worst to some of these"
        )
    kept = set(spread(places, settings.limit))
    for number, row in enumerate(rows()):
        if number in kept and (two := two_of(row["prompt"], row["completion"], ask, seed, number)):
            yield record(ask, two, own_is_better=prefers(row, settings) > 0)


def valued_pairs(task: Task, settings: PairSettings, ask: AskSettings, seed: int) -> Iterator[Row]:
    """The pairs of a task's training decisions, by the chips that each side wins when the hand is played on.

    Args:
        task: decisions of `lqlm.tasks.poker`, which say how they are played on.
        settings: by how much the better side must win more.
        ask: how decisions are put into words.
        seed: of the other answers.

    Yields:
        records with "prompt", "chosen" and "rejected"; the sides differ.
    """
    for number, item in enumerate(task.train):
        if two := two_of(item.question, item.answer, ask, seed, number):
            own, other = (big_blinds(write_answer(answer), item) for answer in (two.own, two.other))
            lead = own - other
            if abs(lead) > 0 and abs(lead) >= settings.lead:
                yield record(ask, two, own_is_better=lead > 0)


def prefers(row: Row, settings: PairSettings) -> int:
    """1 where the player's own answer is the better one, -1 where it is the worse one, 0 where nothing is known.

    >>> prefers({"tier": "negative"}, PairSettings("tiers")), prefers({"tier": "negative"}, PairSettings("random"))
    (-1, 1)
    """
    if settings.by == "random":
        return 1
    return int(row["tier"] in settings.best) - int(row["tier"] in settings.worst)


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most so many of them, evenly from first to last (0: all).

    >>> spread(list(range(10)), 4), spread([1, 2], 3), spread([1, 2], 0)
    ([0, 2, 5, 7], [1, 2], [1, 2])
    """
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def two_of(prompt: str, completion: str, ask: AskSettings, seed: int, number: int) -> Two | None:
    """The player's answer and one drawn from the other legal ones; None where nothing else was legal."""
    state = TEMPLATES[ask.template].read(prompt)
    own = as_legal(read_answer(completion), state)
    others = [answer for answer in legal_answers(state) if answer != own]
    if not others:
        return None
    return Two(prompt, own, others[int(np.random.default_rng([seed, number, 1]).integers(len(others)))])


def as_legal(answer: Answer, state: State) -> Answer:
    """The answer as `legal_answers` says it: a bet or raise of the whole stack is all-in."""
    everything = answer.word in ("bet", "raise") and answer.amount == state.all_in
    return Answer("all-in") if everything else answer


def record(ask: AskSettings, two: Two, *, own_is_better: bool) -> Row:
    """A pair in the words and the form of supervised fine-tuning."""
    sides = (two.own, two.other) if own_is_better else (two.other, two.own)
    good, bad = (ask.record(two.prompt, TEMPLATES[ask.template].answer(answer)) for answer in sides)
    if "messages" not in good:
        return {"prompt": good["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
    return {"prompt": good["messages"][:-1], "chosen": good["messages"][-1:], "rejected": bad["messages"][-1:]}
