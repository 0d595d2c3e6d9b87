"""A record played through: the decisions with what was legal, the pots, the stacks at the end."""

import dataclasses
from collections.abc import Callable

from lqlm.poker.betting import (
    BOARD_CARDS,
    MOST_BETS,
    Betting,
    Legal,
    act,
    begin,
    big_blind_seat,
    give_back,
    in_hand,
    legal,
    live,
    next_street,
    post,
    take,
    turn,
)
from lqlm.poker.record import Act, ActKind, Hand, HandError, PostKind, Returned, collected

__all__ = [
    "BOARD_CARDS",
    "MOST_BETS",
    "Betting",
    "Decision",
    "Legal",
    "Outcome",
    "Pot",
    "Replay",
    "act",
    "begin",
    "big_blind_seat",
    "in_hand",
    "legal",
    "live",
    "next_street",
    "outcome",
    "post",
    "pots_of",
    "replay",
    "validate",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A decision and what was to be seen: street 0..3, public cards, pot with all bets, stacks and bets by seat."""

    seat: int
    street: int
    board: tuple[int, ...]
    pot: int
    bet: int
    stacks: dict[int, int]
    bets: dict[int, int]
    live: tuple[int, ...]
    legal: Legal
    act: Act
    index: int


def to_win(hand: Hand, decision: Decision) -> int:
    """The pot that a call can win, the call not in it: no more from each player than what the caller has put in.

    It is the whole pot unless the caller is all-in for less than another player's bet.  Dead blinds and a single ante
    (the big blind's) are the main pot's, whatever the caller has put in.

    Args:
        hand: the record; of it only the stacks at the beginning and the posts.
        decision: of its replay.
    """
    start, common = {seat.number: seat.stack for seat in hand.seats}, _common(hand)
    paid = {seat: start[seat] - stack - common.get(seat, 0) for seat, stack in decision.stacks.items()}
    own = paid[decision.seat] + decision.legal.call
    return sum(min(amount, own) for amount in paid.values()) + sum(common.values())


def _common(hand: Hand) -> dict[int, int]:
    """Seat -> what it posted for the main pot alone: dead blinds, and an ante where nobody else paid one."""
    antes = [one for one in hand.posts if one.kind is PostKind.ANTE]
    found = {one.seat: one.amount for one in antes} if len(antes) == 1 else {}
    for one in hand.posts:
        if one.kind is PostKind.BOTH:
            found[one.seat] = found.get(one.seat, 0) + max(one.amount - hand.big_blind, 0)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Pot:
    """A main or side pot before rake, and the seats that may win it."""

    amount: int
    seats: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from a hand: pot at the end of each street, pots, the return, chips put in, final stacks."""

    street_pots: tuple[int, ...]
    pots: tuple[Pot, ...]
    returned: Returned | None
    contributed: dict[int, int]
    stacks: dict[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Replay(Outcome):
    """An outcome with every decision on the way."""

    decisions: tuple[Decision, ...]


def pots_of(state: Betting) -> tuple[Pot, ...]:
    """Main pot and side pots: layers between the totals of those who are still in.

    An ante of all is part of a player's total; a single ante (the big blind's) and dead blinds are the main pot's.
    """
    shared = sum(amount > 0 for amount in state.antes.values()) > 1
    total = {s: state.live_in[s] + (state.antes[s] if shared else 0) for s in state.order}
    pots, below, extra = [], 0, sum(state.dead.values()) + (0 if shared else sum(state.antes.values()))
    alive = live(state)
    for level in sorted({total[s] for s in alive}):
        amount = sum(min(t, level) - min(t, below) for t in total.values()) + extra
        seats = tuple(s for s in alive if total[s] >= level)
        if amount:
            pots.append(Pot(amount, seats))
            extra = 0
        below = level
    surplus = sum(max(t - below, 0) for t in total.values()) + extra  # of those who folded above all others
    if surplus and pots:
        pots[-1] = Pot(pots[-1].amount + surplus, pots[-1].seats)
    return tuple(pots) if pots else (Pot(surplus, tuple(alive)),) if surplus else ()


def replay(hand: Hand) -> Replay:
    """Play a record through.

    Args:
        hand: the record; ``hand.returned`` is not read.

    Returns:
        The decisions with what was legal, the pots, and the final stacks after what the record says was collected.

    Raises:
        HandError: at the first thing that the rules do not allow.
    """
    decisions = list[Decision]()
    end = _run(hand, lambda state, item, allowed: decisions.append(_decision(state, item, allowed, len(decisions))))
    return Replay(end.street_pots, end.pots, end.returned, end.contributed, end.stacks, tuple(decisions))


def outcome(hand: Hand) -> Outcome:
    """As :func:`replay`, without the decisions, in half the time."""
    return _run(hand, lambda state, item, allowed: None)


def _run(hand: Hand, see: Callable[[Betting, Act, Legal], None]) -> Outcome:
    state, street_pots = begin(hand), list[int]()
    for street, acts in enumerate(hand.streets):
        if street:
            next_street(state)
        for item in acts:
            allowed = turn(state, item)
            see(state, item, allowed)
            take(state, item, allowed)
        street_pots.append(state.pot)
    return _end(hand, state, street_pots)


def _decision(state: Betting, item: Act, allowed: Legal, index: int) -> Decision:
    return Decision(
        seat=item.seat,
        street=state.street,
        board=state.hand.boards[0][: BOARD_CARDS[state.street]],
        pot=state.pot,
        bet=state.bet,
        stacks=dict(state.stacks),
        bets=dict(state.bets),
        live=tuple(live(state)),
        legal=allowed,
        act=item,
        index=index,
    )


def _end(hand: Hand, state: Betting, street_pots: list[int]) -> Outcome:
    if state.waiting:
        raise HandError(f"the hand ends while it is seat {state.waiting[0]}'s turn")
    give_back(state)
    given = {s: state.live_in[s] + state.antes[s] + state.dead[s] for s in state.order}
    final = {seat.number: seat.stack for seat in hand.seats} | state.stacks
    for seat, amount in collected(hand).items():
        final[seat] = final.get(seat, 0) + amount
    return Outcome(tuple(street_pots), pots_of(state), state.returned, given, final)


def validate(hand: Hand) -> Outcome:
    """The outcome of a hand whose chips are conserved and whose parts fit together.

    Before = after + rake; the uncalled bet is returned; every card is there once; only those who are in collect.

    Raises:
        HandError: naming what does not fit.
    """
    _check_shape(hand)
    played = outcome(hand)
    if played.returned != hand.returned:
        raise HandError(f"the uncalled bet is {played.returned}, not {hand.returned}")
    before = sum(seat.stack for seat in hand.seats)
    after = sum(played.stacks.values()) + hand.rake
    if before != after:
        raise HandError(f"{before} chips before the hand, {after} after it (with {hand.rake} of rake)")
    folded = {act.seat for acts in hand.streets for act in acts if act.kind is ActKind.FOLD}
    wrong = sorted(set(collected(hand)) & folded)
    if wrong:
        raise HandError(f"seat {wrong[0]} folds and collects")
    return played


def _check_shape(hand: Hand) -> None:
    numbers, names = [s.number for s in hand.seats], [s.player for s in hand.seats]
    if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
        raise HandError("a seat or a player is there twice")
    if len(in_hand(hand)) < 2:
        raise HandError("fewer than two players are in the hand")
    for board in hand.boards:
        if len(board) != BOARD_CARDS[len(hand.streets) - 1]:
            raise HandError(f"{len(hand.streets)} streets, but {len(board)} public cards")
    if any(len(hole.cards) != hand.game.hole_cards for hole in hand.holes):
        raise HandError(f"{hand.game} has {hand.game.hole_cards} hole cards")
    _check_cards(hand)


def _check_cards(hand: Hand) -> None:
    """No card twice: two boards share their first cards, and cards that are shown may have been dealt openly."""
    dealt = {hole.seat: set(hole.cards) for hole in hand.holes}
    for item in (*hand.holes, *hand.results):
        held = getattr(item, "cards", ())
        if len(set(held)) < len(held):
            raise HandError("a card is there twice")
        if not set(held) <= dealt.get(item.seat, set(held)):
            raise HandError(f"seat {item.seat} shows cards that it was not dealt")
    shown = {(r.seat, c) for r in hand.results for c in getattr(r, "cards", ())}
    shown |= {(hole.seat, c) for hole in hand.holes for c in hole.cards}
    first, second = (*hand.boards, ())[:2]
    rest = [c for i, c in enumerate(second) if i >= len(first) or first[i] != c]
    every = [c for _, c in shown] + [*first, *rest]
    if len(set(every)) < len(every):
        raise HandError("a card is there twice")
