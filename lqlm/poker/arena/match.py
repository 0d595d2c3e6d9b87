"""Duplicate matches: the same cards for every seating, so that luck cancels, and results with 95% intervals."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.estimates import Estimate, mean_interval, without_controls
from lqlm.poker.arena.luck import TERMS, lucks_of
from lqlm.poker.arena.observation import Agent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import Deal, Played, deal, play_hand

DECK, LUCK = 100, 101
"""Streams of random numbers besides those of the seats, 0 to 9."""
TOGETHER = 32
"""Hands whose luck is looked up at once."""
ESTIMATORS = ("hands", "duplicate", "all-in", "controlled")
"""``hands`` takes every hand for independent: the interval that as many hands without duplicates would have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """What the hero of a match won, deal by deal and seat by seat.

    Attributes:
        big_blind: in chips.
        chips: float64 [deals, seats], what the hero won in each seat with the same cards.
        all_in: float64 [deals, seats], how much of it was luck after nobody could bet.
        terms: float64 [deals, seats, 4], the luck of hole cards, flop, turn and river.
        decisions: the hero's.
        illegal: how many of these were not legal or not readable.
        thinking: seconds that the hero took.
        seconds: of the whole match.
    """

    big_blind: int
    chips: np.ndarray
    all_in: np.ndarray
    terms: np.ndarray
    decisions: int
    illegal: int
    thinking: float
    seconds: float

    @property
    def hands(self) -> int:
        """Hands played."""
        return self.chips.size

    @property
    def hands_per_second(self) -> float:
        """Hands played in a second, the measurement of luck included."""
        return self.hands / self.seconds


def play_match(
    rules: Rules,
    hero: Agent,
    field: Sequence[Agent],
    deals: int,
    seed: int,
    *,
    samples: int = 256,
    keep: Callable[[Played], None] | None = None,
) -> Match:
    """Play every deal once with the hero in each seat, the field around him in its order.

    Cards and random numbers come from the seed, the deal and the seat, whoever sits there: equal agents win exactly 0.

    Args:
        rules: what is played.
        hero: who is measured.
        field: the others, 1 to 9.
        deals: how many; hands are deals times seats.
        seed: of the match.
        samples: boards to draw where luck needs a mean over many.
        keep: called with every hand.
    """
    count, begun = len(field) + 1, time.perf_counter()
    hands = (play_seating(rules, hero, field, number, seat, seed) for number in range(deals) for seat in range(count))
    return tally(rules, hands, (deals, count), seed, begun, samples=samples, keep=keep)


def tally(
    rules: Rules,
    hands: Iterable[Played],
    shape: tuple[int, int],
    seed: int,
    begun: float,
    *,
    samples: int = 256,
    keep: Callable[[Played], None] | None = None,
) -> Match:
    """The match that hands make up, deal after deal, in each the hero seat after seat.

    Args:
        rules: what was played.
        hands: all of them, in that order.
        shape: how many deals and seats.
        seed: of the match.
        begun: when, by ``time.perf_counter``.
        samples: boards to draw where luck needs a mean over many.
        keep: called with every hand.
    """
    chips, all_in, terms = np.zeros(shape), np.zeros(shape), np.zeros((*shape, len(TERMS)))
    decisions, illegal, thinking, places, left = 0, 0, 0.0, iter(np.ndindex(shape)), iter(hands)
    while some := list(itertools.islice(left, TOGETHER)):
        where = list(itertools.islice(places, len(some)))
        rngs = [stream(seed, number, LUCK) for number, _ in where]
        lucks = lucks_of([played.hand for played in some], rngs, samples)
        for (number, seat), played, luck in zip(where, some, lucks):
            chips[number, seat] = played.chips[seat]
            all_in[number, seat], terms[number, seat] = luck.all_in[seat], luck.terms[:, seat]
            decisions, illegal = decisions + played.decisions[seat], illegal + played.illegal[seat]
            thinking += played.seconds[seat]
            if keep:
                keep(played)
    return Match(rules.big, chips, all_in, terms, decisions, illegal, thinking, time.perf_counter() - begun)


def stream(seed: int, number: int, use: int) -> np.random.Generator:
    """Random numbers of one deal for one use, a seat's number, ``DECK`` or ``LUCK``; independent of all others."""
    # numpy takes [a, b] and [a, b, 0] for the same seed: a last number that is never 0 keeps streams apart.
    return np.random.default_rng([seed, number, use, 1])


def play_seating(rules: Rules, hero: Agent, field: Sequence[Agent], number: int, seat: int, seed: int) -> Played:
    """One hand of a match: deal ``number`` with the hero at ``seat``, counted from the left of the button."""
    seating = seat_players(rules, hero, field, number, seat, seed)
    agents, dealt, rngs = seating.agents, seating.dealt, seating.rngs
    return play_hand(rules, agents, dealt, rngs, names=seating.names, hand_id=seating.hand_id)


class Seating(NamedTuple):
    """A hand that is to be played: the arguments of :func:`~lqlm.poker.arena.table.play_hand`."""

    agents: Sequence[Agent]
    dealt: Deal
    rngs: Sequence[np.random.Generator]
    names: Sequence[str]
    hand_id: str


def seat_players(rules: Rules, hero: Agent, field: Sequence[Agent], number: int, seat: int, seed: int) -> Seating:
    """Who sits where in a hand of a match, with which cards and random numbers."""
    count = len(field) + 1
    others, after = list(field), count - 1 - seat
    names = [f"Field {i}" for i in range(1, count)]
    return Seating(
        agents=[*others[after:], hero, *others[:after]],
        dealt=deal(stream(seed, number, DECK), count, rules.game.hole_cards),
        rngs=[stream(seed, number, at) for at in range(count)],
        names=[*names[after:], "Hero", *names[:after]],
        hand_id=f"{seed}-{number}-{seat}",
    )


def mbb(match: Match) -> dict[str, Estimate]:
    """The hero's winnings in milli-big-blinds per hand, as each of :data:`ESTIMATORS` has them.

    All have the same mean over many matches; a deal is one independent value but for ``hands``.

    - hands: each hand by itself, as if independent.
    - duplicate: the mean over the seats of a deal.
    - all-in: the same less the luck of boards dealt after nobody could bet.
    - controlled: that less what the luck of the other cards explains (:func:`without_controls`).
    """
    return _estimates(1000 / match.big_blind, match.chips, match.all_in, match.terms)


def difference(one: Match, other: Match) -> dict[str, Estimate]:
    """By how many milli-big-blinds per hand one hero wins more than another, in the same seats with the same cards.

    Luck that both heroes had cancels, so that the interval is narrower than either's own; ``controlled`` takes off what
    the difference in luck explains.

    Args:
        one: a hero's match.
        other: another's against the same field, of the same seed.

    Raises:
        UserError: when they are of other sizes.
    """
    if (one.chips.shape, one.big_blind) != (other.chips.shape, other.big_blind):
        raise UserError(f"matches of {one.chips.shape} and {other.chips.shape} deals and seats cannot be compared")
    parts = (getattr(one, name) - getattr(other, name) for name in ("chips", "all_in", "terms"))
    return _estimates(1000 / one.big_blind, *parts)


def _estimates(scale: float, chips: np.ndarray, all_in: np.ndarray, terms: np.ndarray) -> dict[str, Estimate]:
    settled = (chips - all_in).mean(1) * scale
    return {
        "hands": mean_interval(chips.ravel() * scale),
        "duplicate": mean_interval(chips.mean(1) * scale),
        "all-in": mean_interval(settled),
        "controlled": mean_interval(without_controls(settled, terms.mean(1) * scale)),
    }
