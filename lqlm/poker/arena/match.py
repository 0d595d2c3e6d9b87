"""Duplicate matches: the same cards for every seating, so that luck cancels, and results with 95% intervals."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from lqlm.poker.arena.estimates import Estimate, mean_interval, without_controls
from lqlm.poker.arena.luck import TERMS, luck_of
from lqlm.poker.arena.observation import Agent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import Played, deal, play_hand

DECK, LUCK = 100, 101
"""Streams of random numbers besides those of the seats, 0 to 9."""
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
    chips, all_in = np.zeros((deals, count)), np.zeros((deals, count))
    terms = np.zeros((deals, count, len(TERMS)))
    decisions, illegal, thinking = 0, 0, 0.0
    for number in range(deals):
        for seat in range(count):
            played = play_seating(rules, hero, field, number, seat, seed)
            luck = luck_of(played.hand, stream(seed, number, LUCK), samples)
            chips[number, seat] = played.chips[seat]
            all_in[number, seat], terms[number, seat] = luck.all_in[seat], luck.terms[:, seat]
            decisions, illegal = decisions + played.decisions[seat], illegal + played.illegal[seat]
            thinking += played.seconds[seat]
            if keep:
                keep(played)
    seconds = time.perf_counter() - begun
    return Match(rules.big, chips, all_in, terms, decisions, illegal, thinking, seconds)


def stream(seed: int, number: int, use: int) -> np.random.Generator:
    """Random numbers of one deal for one use, a seat's number, ``DECK`` or ``LUCK``; independent of all others."""
    # numpy takes [a, b] and [a, b, 0] for the same seed: a last number that is never 0 keeps streams apart.
    return np.random.default_rng([seed, number, use, 1])


def play_seating(rules: Rules, hero: Agent, field: Sequence[Agent], number: int, seat: int, seed: int) -> Played:
    """One hand of a match: deal ``number`` with the hero at ``seat``, counted from the left of the button."""
    count = len(field) + 1
    others = list(field)
    after = count - 1 - seat
    agents = [*others[after:], hero, *others[:after]]
    names = [f"Field {i}" for i in range(1, count)]
    names = [*names[after:], "Hero", *names[:after]]
    dealt = deal(stream(seed, number, DECK), count, rules.game.hole_cards)
    rngs = [stream(seed, number, at) for at in range(count)]
    return play_hand(rules, agents, dealt, rngs, names=names, hand_id=f"{seed}-{number}-{seat}")


def mbb(match: Match) -> dict[str, Estimate]:
    """The hero's winnings in milli-big-blinds per hand, as each of :data:`ESTIMATORS` has them.

    All have the same mean over many matches; a deal is one independent value but for ``hands``.

    - hands: each hand by itself, as if independent.
    - duplicate: the mean over the seats of a deal.
    - all-in: the same less the luck of boards dealt after nobody could bet.
    - controlled: that less what the luck of the other cards explains (:func:`without_controls`).
    """
    scale = 1000 / match.big_blind
    deals = match.chips.mean(1) * scale
    settled = (match.chips - match.all_in).mean(1) * scale
    controls = match.terms.mean(1) * scale
    return {
        "hands": mean_interval(match.chips.ravel() * scale),
        "duplicate": mean_interval(deals),
        "all-in": mean_interval(settled),
        "controlled": mean_interval(without_controls(settled, controls)),
    }
