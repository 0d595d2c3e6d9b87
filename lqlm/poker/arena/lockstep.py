"""Many hands side by side: who is to decide at several tables is asked once, so that a model answers in batches."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from lqlm.poker.arena.match import Match, Seating, seat_players, tally
from lqlm.poker.arena.observation import Agent, Mixed, Observation, act_many
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import Played, Underway
from lqlm.poker.record import Act

ABREAST = 256
"""Hands that are played side by side: enough to fill a model's batches, few enough to stay in a core's caches."""


class Going(Protocol):
    """A hand on its way, such as :class:`~lqlm.poker.arena.table.Underway`."""

    @property
    def agent(self) -> Agent:
        """Whose turn it is."""
        ...

    @property
    def seen(self) -> Observation:
        """What that player may know."""
        ...

    @property
    def rng(self) -> np.random.Generator:
        """That player's random numbers."""
        ...

    @property
    def played(self) -> Any:
        """What came out once the hand is over, None before."""
        ...

    def take(self, answer: Act | Mixed | None, seconds: float) -> None:
        """Go on with an answer, which took so long."""
        ...


G = TypeVar("G", bound=Going)


def play_lockstep(
    rules: Rules,
    hero: Agent,
    field: Sequence[Agent],
    deals: int,
    seed: int,
    *,
    samples: int = 256,
    keep: Callable[[Played], None] | None = None,
    abreast: int = ABREAST,
) -> Match:
    """The match that :func:`lqlm.poker.arena.match.play_match` plays, hand for hand, in less time.

    Cards and random numbers belong to a deal and a seat, whatever is played beside it, so that nothing depends on the
    order of hands: with agents that answer many questions as they answer each alone, all bots here, chips and luck are
    equal bit for bit.  A model's log-probabilities depend on the shapes of its batch in the last bits of a float32
    (about 1e-6); a draw between two actions, or between equal ones at temperature near 0, may then fall on the other
    side, about once in a million decisions.  ``thinking`` of a batch is shared evenly among its questions.

    Args:
        rules: what is played.
        hero: who is measured.
        field: the others, 1 to 9.
        deals: how many; hands are deals times seats.
        seed: of the match.
        samples: boards to draw where luck needs a mean over many.
        keep: called with every hand, in the order of :func:`~lqlm.poker.arena.match.play_match`.
        abreast: hands that are played side by side.
    """
    count, begun = len(field) + 1, time.perf_counter()
    seatings = (
        seat_players(rules, hero, field, number, seat, seed) for number in range(deals) for seat in range(count)
    )
    hands = play_hands(rules, seatings, abreast)
    return tally(rules, hands, (deals, count), seed, begun, samples=samples, keep=keep)


def play_hands(rules: Rules, seatings: Iterable[Seating], abreast: int = ABREAST) -> Iterator[Played]:
    """Play hands side by side; a new one begins as soon as one is over.

    Args:
        rules: what is played.
        seatings: the hands, taken as places become free.
        abreast: places.

    Yields:
        every hand, in the order of the seatings.
    """
    begun = (
        Underway(rules, agents, dealt, rngs, names=names, hand_id=hand_id)
        for agents, dealt, rngs, names, hand_id in seatings
    )
    for hand in side_by_side(begun, abreast):
        assert hand.played is not None
        yield hand.played


def side_by_side(hands: Iterable[G], abreast: int = ABREAST) -> Iterator[G]:
    """Bring hands to their end, so many at once; a new one is taken up as soon as one is over.

    Args:
        hands: begun, taken as places become free; some may be over already.
        abreast: places.

    Yields:
        every hand when it is over, in the order in which they came.
    """
    waiting, underway, over = enumerate(hands), dict[int, G](), dict[int, G]()
    due = 0
    while True:
        while len(underway) < abreast and (following := next(waiting, None)):
            number, hand = following
            (over if hand.played else underway)[number] = hand
        while due in over:
            yield over.pop(due)
            due += 1
        if not underway:
            return
        _one_decision_each(list(underway.values()))
        over |= {number: hand for number, hand in underway.items() if hand.played}
        underway = {number: hand for number, hand in underway.items() if not hand.played}


def _one_decision_each(hands: Sequence[Going]) -> None:
    """Every hand goes on by a decision, each agent being asked once for all of its own."""
    groups = defaultdict[int, list[Going]](list)
    for hand in hands:
        groups[id(hand.agent)].append(hand)
    for group in groups.values():
        begun = time.perf_counter()
        answers = act_many(group[0].agent, [hand.seen for hand in group], [hand.rng for hand in group])
        each = (time.perf_counter() - begun) / len(group)
        for hand, answer in zip(group, answers, strict=True):
            hand.take(answer, each)
