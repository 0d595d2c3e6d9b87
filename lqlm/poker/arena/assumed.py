"""Equity and the value of a call under a stated assumption of what the others hold.

The assumption is two ranges: one for those who have bet or raised in this hand, one for the others who are still in.
All deals go through the few programs of :mod:`lqlm.poker.arena.showdowns`, so that a table with any number of players
compiles nothing new; :mod:`lqlm.poker.equity` is exact where that is small, and compiles for each number of players.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.showdowns import BOARD, live_cards, strengths
from lqlm.poker.equity import checked_weights
from lqlm.poker.ranges import parse_range
from lqlm.poker.record import ActKind, Game, Hand
from lqlm.poker.replay import Decision
from lqlm.poker.tables import pairs

RANDOM = "random"
_TRIES = 50


@dataclasses.dataclass(frozen=True)
class Assumption:
    """What the others are taken to hold, as :mod:`lqlm.poker.ranges` writes it; in Omaha all hold random hands.

    Attributes:
        raisers: of those who have bet or raised in this hand.
        others: of everyone else who is in.
    """

    raisers: str = "30%"
    others: str = RANDOM

    def __post_init__(self) -> None:
        parse_range(self.raisers), parse_range(self.others)

    def describe(self, ranges: Sequence[str]) -> str:
        """The ranges in words.

        >>> Assumption().describe(["30%", "random", "random"])
        '1 hand of the range 30% and 2 random hands'
        """
        counts = {text: ranges.count(text) for text in dict.fromkeys(ranges)}
        said = [
            f"{n} random hand{'s' * (n > 1)}" if text == RANDOM else f"{n} hand{'s' * (n > 1)} of the range {text}"
            for text, n in counts.items()
        ]
        return " and ".join(said)


USUAL = Assumption()
"""Those who raised hold the best 30%, the others anything."""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """The share of a pot that a hand wins, its standard error, and against what."""

    equity: float
    error: float
    against: str


def raisers(hand: Hand, decision: Decision) -> set[int]:
    """Seats that have bet or raised in this hand before a decision; a blind is no bet."""
    before = [act for acts in hand.streets for act in acts][: decision.index]
    return {act.seat for act in before if act.kind in (ActKind.BET, ActKind.RAISE)}


def assumed_ranges(hand: Hand, decision: Decision, assumption: Assumption) -> list[str]:
    """The ranges of the others who are in, in the order of the seats from the left of the button on."""
    if hand.game is not Game.HOLDEM:
        return [RANDOM] * (len(decision.live) - 1)
    raised = raisers(hand, decision)
    others = [seat for seat in decision.live if seat != decision.seat]
    return [assumption.raisers if seat in raised else assumption.others for seat in others]


def estimate(
    hand: Hand,
    decision: Decision,
    cards: Sequence[int],
    rng: np.random.Generator,
    assumption: Assumption = USUAL,
    samples: int = 4000,
) -> Estimate:
    """The equity of a decision's player against everyone who is in, under an assumption.

    Args:
        hand: the record; of it only what happened before the decision is read.
        decision: one of its replay.
        cards: of the player who decides.
        rng: for the deals.
        assumption: what the others hold.
        samples: how many deals.
    """
    ranges = assumed_ranges(hand, decision, assumption)
    shares = sampled_shares(cards, decision.board, weights_of(ranges), rng, samples)
    error = float(shares.std() / np.sqrt(max(len(shares) - 1, 1)))
    return Estimate(float(shares.mean()), error, assumption.describe(ranges))


def weights_of(ranges: Sequence[str]) -> list[np.ndarray | None]:
    """The weights of each range as `sampled_shares` takes them, None for a random hand."""
    return [None if text == RANDOM else _range(text) for text in ranges]


@functools.cache
def _range(text: str) -> np.ndarray:
    weights = parse_range(text)
    weights.flags.writeable = False
    return weights


def sampled_shares(
    cards: Sequence[int],
    board: Sequence[int],
    others: Sequence[np.ndarray | None],
    rng: np.random.Generator,
    samples: int,
) -> np.ndarray:
    """The share of the pot that a hand wins in random deals.

    Hands of the ranges are drawn by their weights and a deal in which two of them collide is thrown away; random hands
    and the board come from what is left, which has the same number of ways in every deal.

    Args:
        cards: own hole cards.
        board: public cards.
        others: of each player the weights of a range [1326], or None for a random hand.
        rng: for the deals.
        samples: how many.

    Returns:
        float64 [samples], each in 0..1.

    Raises:
        UserError: when nobody else is there, and when the ranges leave no deal.
    """
    if not others:
        raise UserError("equity: nobody else is in the hand; it takes one opponent at least")
    ranged = _ranged([weights for weights in others if weights is not None], [*cards, *board], rng, samples)
    unknown, missing = sum(weights is None for weights in others), BOARD - len(board)
    rest = _rest(ranged, [*cards, *board], rng, unknown * len(cards) + missing)
    boards = np.concatenate([np.tile(np.asarray(board, int), (samples, 1)), rest[:, :missing]], 1)
    hands = np.concatenate([np.tile(np.asarray(cards), (samples, 1)), ranged, rest[:, missing:]], 1)
    holes = hands.reshape(samples * (len(others) + 1), len(cards))
    table = strengths(holes, np.repeat(boards, len(others) + 1, axis=0)).reshape(samples, -1)
    best = table == table.max(1, keepdims=True)
    return best[:, 0] / best.sum(1)


def _ranged(ranges: Sequence[np.ndarray], gone: Sequence[int], rng: np.random.Generator, rows: int) -> np.ndarray:
    """Hands of ranges that do not collide, [rows, 2 ranges]."""
    if not ranges:
        return np.empty((rows, 0), int)
    chances = [weights / weights.sum() for weights in (checked_weights(one, gone) for one in ranges)]
    kept: list[np.ndarray] = []
    for _ in range(_TRIES):
        drawn = np.concatenate([pairs()[rng.choice(len(p), rows, p=p)] for p in chances], 1)
        order = np.sort(drawn, 1)
        kept.append(drawn[(order[:, 1:] != order[:, :-1]).all(1)])
        if sum(map(len, kept)) >= rows:
            return np.concatenate(kept)[:rows]
    raise UserError("the ranges: hardly a deal gives every player a hand of his range; widen them")


def _rest(ranged: np.ndarray, gone: Sequence[int], rng: np.random.Generator, count: int) -> np.ndarray:
    """Cards drawn in each row from those that are left, [rows, count]."""
    if not count:
        return np.empty((len(ranged), 0), int)
    live = live_cards(gone)
    order = rng.random((len(ranged), len(live)))
    order[(live[None, :, None] == ranged[:, None, :]).any(2)] = 2.0
    return live[np.argsort(order, 1)[:, :count]]


def call_value(equity: float, call: float, pot: float) -> float:
    """What a call wins on average beyond a fold when nobody bets any more, ``e (pot + call) - call``.

    Args:
        equity: e, the share of the pot.
        call: what it costs.
        pot: what can be won, without the call.

    >>> call_value(0.25, 50, 150), call_value(0.5, 50, 150)
    (0.0, 50.0)
    """
    return equity * (pot + call) - call
