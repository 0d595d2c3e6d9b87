"""Decisions of records as a table of numbers: what is public, the cards, the equity; and what was decided."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lqlm.poker.cards import characteristics, rank, suit
from lqlm.poker.record import ActKind, Hand
from lqlm.poker.replay import Decision, replay, to_win
from lqlm.poker.state import legal_words, word_of

CLASSES = ("fold", "check", "call", "bet", "raise")
PUBLIC = (
    "street",
    "live",
    "seats",
    "position",
    "pot",
    "call",
    "pot odds",
    "stack",
    "greatest stack against",
    "own bet",
    "raises on the street",
    "raises before",
    "own raises",
    "all-in against",
    "to act after",
)
CARDS = ("high", "low", "pair", "suited", "close", "board high", "board pair", "board suit", "own suit", "rank")
EQUITY = ("equity against one", "equity against all", "equity over pot odds")
GROUPS = {"public": PUBLIC, "cards": CARDS, "equity": EQUITY}
_RAISES = (ActKind.BET, ActKind.RAISE)


class Known(NamedTuple):
    """A hand, the session that it is of, and the seats whose cards are known."""

    session: str
    hand: Hand
    cards: dict[int, tuple[int, ...]]


Equity = Callable[[Sequence[int], Sequence[int]], float]
"""Hole cards and board -> equity against one random hand."""


@dataclasses.dataclass(frozen=True)
class DecisionTable:
    """Decisions, one a row.

    Attributes:
        names: of the features.
        features: float64 [rows, features].
        labels: int64 [rows], what was decided, of :data:`CLASSES`.
        legal: bool [rows, 5].
        sessions: [rows], text.
        sizes: float64 [rows], total of the bet or raise in pots, nan where there is none.
    """

    names: tuple[str, ...]
    features: np.ndarray
    labels: np.ndarray
    legal: np.ndarray
    sessions: np.ndarray
    sizes: np.ndarray

    def columns(self, *groups: str) -> np.ndarray:
        """The features of some of :data:`GROUPS`."""
        wanted = [self.names.index(name) for group in groups for name in GROUPS[group]]
        return self.features[:, wanted]


def joined(*tables: DecisionTable) -> DecisionTable:
    """The rows of several tables below each other."""
    fields = (field.name for field in dataclasses.fields(DecisionTable) if field.name != "names")
    rows = {name: np.concatenate([getattr(table, name) for table in tables]) for name in fields}
    return DecisionTable(names=tables[0].names, **rows)


def decision_table(hands: Iterable[Known], equity: Equity) -> DecisionTable:
    """Every decision of a seat whose cards are known."""
    rows, labels, legal, sessions, sizes = [], [], [], [], []
    for session, hand, known in hands:
        for decision in replay(hand).decisions:
            if decision.seat in known:
                rows.append(row_of(hand, decision, known[decision.seat], equity))
                words = legal_words(decision.legal, decision.bet)
                legal.append([word in words for word in CLASSES])
                labels.append(CLASSES.index(word_of(decision.act)))
                sessions.append(session)
                sizes.append(size_in_pots(decision, decision.act.amount) if decision.act.kind in _RAISES else np.nan)
    names = (*PUBLIC, *CARDS, *EQUITY)
    shape = (-1, len(names))
    return DecisionTable(
        names,
        np.array(rows, np.float64).reshape(shape),
        np.array(labels, np.int64),
        np.array(legal, bool).reshape(-1, len(CLASSES)),
        np.array(sessions, str),
        np.array(sizes, np.float64),
    )


def size_in_pots(decision: Decision, total: int) -> float:
    """The part of a raise beyond the call, over the pot after it, ``(total - bet) / (pot + call)``."""
    return (total - decision.bet) / (decision.pot + decision.legal.call)


def row_of(hand: Hand, decision: Decision, cards: Sequence[int], equity: Equity) -> list[float]:
    """The features of one decision."""
    return [*_public(hand, decision), *_cards(cards, decision.board), *_equity(hand, decision, cards, equity)]


def _public(hand: Hand, decision: Decision) -> list[float]:
    seat, big, order = decision.seat, hand.big_blind, list(decision.stacks)
    others = [other for other in decision.live if other != seat]
    streets = _acts_before(hand, decision.index)
    raises = [[act.seat for act in acts if act.kind in _RAISES] for acts in streets]
    call = decision.legal.call
    after = [other for other in order[order.index(seat) + 1 :] if other in others and decision.stacks[other]]
    return [
        decision.street,
        len(decision.live),
        len(order),
        order.index(seat) / len(order),
        decision.pot / big,
        call / big,
        call / (to_win(hand, decision) + call),
        decision.stacks[seat] / big,
        max((decision.stacks[other] for other in others), default=0) / big,
        decision.bets[seat] / big,
        len(raises[decision.street]),
        sum(map(len, raises[: decision.street])),
        sum(acts.count(seat) for acts in raises),
        sum(not decision.stacks[other] for other in others),
        len(after),
    ]


def _acts_before(hand: Hand, index: int) -> list[Sequence]:  # type: ignore[type-arg]
    """The decisions before one, street by street; always four streets."""
    out: list[Sequence] = []  # type: ignore[type-arg]
    for acts in (*hand.streets, (), (), ())[:4]:
        out.append(acts[:index])
        index -= min(index, len(acts))
    return out


def _cards(cards: Sequence[int], board: Sequence[int]) -> list[float]:
    mine, shared = sorted(map(rank, cards)), list(map(rank, board))
    suits = [suit(card) for card in board]
    words = characteristics(cards)
    return [
        mine[-1],
        mine[0],
        len(set(mine)) < len(mine),
        "suit" in words,
        "close" in words,
        max(shared, default=-1),
        len(shared) - len(set(shared)),
        max(map(suits.count, suits), default=0),
        max(sum(suit(card) == s for card in (*cards, *board)) for s in map(suit, cards)),
        sum(shared.count(own) for own in set(mine)) + (len(set(mine)) < len(mine)),
    ]


def _equity(hand: Hand, decision: Decision, cards: Sequence[int], equity: Equity) -> list[float]:
    one = equity(cards, decision.board)
    odds = decision.legal.call / (to_win(hand, decision) + decision.legal.call)
    every = one ** (len(decision.live) - 1)
    return [one, every, every - odds]
