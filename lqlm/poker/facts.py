"""What is true of a decision: typed facts, each computed from what the player sees."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

from lqlm.poker.cards import CATEGORIES, best_category, suit
from lqlm.poker.draws import find_draws, pot_odds
from lqlm.poker.record import ActKind, Game, Hand
from lqlm.poker.replay import Decision

STREETS = ("before the flop", "the flop", "the turn", "the river")
POSITIONS = (
    "button",
    "small blind",
    "big blind",
    "cutoff",
    "hijack",
    "under the gun",
    "middle position",
)
Policy = tuple[tuple[str, float], ...]
"""Decisions as a person reads them ("fold", "call", "raise to 6 bb") with their probabilities."""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """A decision as its player sees it; amounts in big blinds, shares in 0..1.

    Attributes:
        street: 0 before the flop .. 3 on the river.
        cards: of the player who decides.
        board: public cards.
        made: the category of the hand so far, of ``cards.CATEGORIES``.
        suited: whether two hold'em cards share a suit; None in Omaha.
        draws: names of :mod:`lqlm.poker.draws`; empty in Omaha, before the flop and on the river.
        outs: cards that improve the hand; None where draws are not looked for.
        position: the player's, of :data:`POSITIONS`.
        opponents: how many others are in.
        pot: all bets in it.
        winnable: of the pot, what a call can win: less than all of it where the stack is short.
        call: what a call costs, 0 for a check.
        stack: behind.
        effective: the stack that can still be won or lost: no more than the largest against it.
        raiser: seat of the last bet or raise of this street, 0 for none; a blind is no bet.
        raiser_position: of that seat, or empty.
        raises: bets and raises of this street.
        needed: the equity at which a call breaks even; None where there is nothing to call.
        equity: the share of the pot that the hand wins, or None where it was not computed.
        margin: of the equity, half its 95% interval.
        against: in words, what the equity is against.
        policy: the adviser's probabilities, if there is one.
    """

    street: int
    cards: tuple[int, ...]
    board: tuple[int, ...]
    made: str
    suited: bool | None
    draws: tuple[str, ...]
    outs: int | None
    position: str
    opponents: int
    pot: Decimal
    winnable: Decimal
    call: Decimal
    stack: Decimal
    effective: Decimal
    raiser: int = 0
    raiser_position: str = ""
    raises: int = 0
    needed: float | None = None
    equity: float | None = None
    margin: float = 0.0
    against: str = ""
    policy: Policy = ()

    @property
    def spr(self) -> Decimal:
        """Stack-to-pot ratio: the effective stack over the pot."""
        return self.effective / self.pot if self.pot else Decimal(0)

    @property
    def relation(self) -> str:
        """How the equity stands to what a call needs: "more than", "less than", or "near" within the margin."""
        if self.equity is None or self.needed is None:
            return ""
        gap = self.equity - self.needed
        return "near" if abs(gap) <= self.margin else "more than" if gap > 0 else "less than"


def position_of(index: int, players: int) -> str:
    """The name of a position.

    Args:
        index: in the order from the left of the button on; the last one has the button.
        players: how many were dealt in.

    >>> [position_of(i, 6) for i in range(6)]
    ['small blind', 'big blind', 'under the gun', 'hijack', 'cutoff', 'button']
    >>> [position_of(i, 2) for i in range(2)]
    ['big blind', 'button']
    """
    if index == players - 1:
        return "button"
    if players == 2:
        return "big blind"
    if index < 2:
        return ("small blind", "big blind")[index]
    if index == 2 and players > 4:
        return "under the gun"
    return {1: "cutoff", 2: "hijack"}.get(players - 1 - index, "middle position")


def facts_of(
    hand: Hand,
    decision: Decision,
    cards: tuple[int, ...],
    *,
    to_win: int | None = None,
    equity: float | None = None,
    error: float = 0.0,
    against: str = "",
    policy: Sequence[tuple[str, float]] = (),
) -> Facts:
    """The facts of a decision; of the record only what happened before it is read.

    Args:
        hand: the record.
        decision: one of its replay.
        cards: of the player who decides.
        to_win: chips that a call can win, where that is less than the pot; None for the pot.
        equity: of the cards, if it was computed.
        error: its standard error.
        against: what it is against, in words.
        policy: an adviser's probabilities.
    """
    seat, big, order = decision.seat, hand.big_blind, list(decision.stacks)
    raised = [act.seat for act in _street_acts(hand, decision) if act.kind in (ActKind.BET, ActKind.RAISE)]
    raiser = raised[-1] if raised else 0
    draws = _draws(hand, cards, decision.board)
    largest = max(decision.stacks[s] + decision.bets[s] for s in decision.live if s != seat) - decision.bets[seat]
    call, pot = decision.legal.call, decision.pot if to_win is None else to_win
    return Facts(
        street=decision.street,
        cards=cards,
        board=decision.board,
        made=CATEGORIES[best_category(cards, decision.board, None if hand.game is Game.HOLDEM else 2)],
        suited=suit(cards[0]) == suit(cards[1]) if len(cards) == 2 else None,
        draws=draws.names if draws else (),
        outs=draws.count if draws else None,
        position=position_of(order.index(seat), len(order)),
        opponents=len(decision.live) - 1,
        pot=Decimal(decision.pot) / big,
        winnable=Decimal(pot) / big,
        call=Decimal(call) / big,
        stack=Decimal(decision.stacks[seat]) / big,
        effective=Decimal(max(min(decision.stacks[seat], largest), 0)) / big,
        raiser=raiser,
        raiser_position=position_of(order.index(raiser), len(order)) if raiser else "",
        raises=len(raised),
        needed=pot_odds(call, pot) if call else None,
        equity=equity,
        margin=1.96 * error,
        against=against,
        policy=tuple(policy),
    )


def _street_acts(hand: Hand, decision: Decision):  # type: ignore[no-untyped-def]
    earlier = sum(map(len, hand.streets[: decision.street]))
    return hand.streets[decision.street][: decision.index - earlier]


def _draws(hand: Hand, cards: tuple[int, ...], board: tuple[int, ...]):  # type: ignore[no-untyped-def]
    return find_draws(cards, board) if hand.game is Game.HOLDEM and len(board) in (3, 4) else None
