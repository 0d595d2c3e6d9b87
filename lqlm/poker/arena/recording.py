"""The record of a hand that was played at the table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lqlm.poker.arena.rules import Rules
from lqlm.poker.record import (
    Act,
    Collected,
    Hand,
    Hole,
    Money,
    Post,
    PostKind,
    Result,
    Seat,
    Shown,
    Stakes,
    Table,
)
from lqlm.poker.replay import BOARD_CARDS, outcome


def opening(rules: Rules, stacks: Sequence[int], seats: Sequence[int], names: Sequence[str], hand_id: str) -> Hand:
    """The record before the cards: who sits where with how much, and the forced bets.

    Args:
        rules: blinds and ante.
        stacks: chips of each player, from the left of the button on.
        seats: number of each player's chair, in that order; the last one has the button.
        names: of each player.
        hand_id: of the record.
    """
    chairs = sorted(zip(seats, names, stacks))
    return Hand(
        hand_id=hand_id,
        game=rules.game,
        limit=rules.limit,
        stakes=Stakes(rules.small, rules.big),
        money=Money(),
        table=Table("lqlm", max(10, *seats), seats[-1]),
        seats=tuple(Seat(*chair) for chair in chairs),
        posts=_posts(rules, stacks, seats),
        site="lqlm",
    )


def short_big_blind(start: Hand) -> bool:
    """Whether the big blind is all-in for less: the referee takes what it has for the price of a call, sites do not."""
    return any(post.kind is PostKind.BIG and post.amount < start.big_blind for post in start.posts)


def _posts(rules: Rules, stacks: Sequence[int], seats: Sequence[int]) -> tuple[Post, ...]:
    """Antes, then blinds; heads-up the button has the small one."""
    left, posts = list(stacks), []
    small, big = (1, 0) if len(seats) == 2 else (0, 1)
    due = [(at, PostKind.ANTE, rules.ante) for at in range(len(seats)) if rules.ante]
    due += [(small, PostKind.SMALL, rules.small), (big, PostKind.BIG, rules.big)]
    for at, kind, amount in due:
        paid = min(amount, left[at])
        left[at] -= paid
        posts.append(Post(seats[at], kind, paid, paid > 0 and not left[at]))
    return tuple(post for post in posts if post.amount)


def finished(
    start: Hand,
    state: Any,
    seats: Sequence[int],
    holes: Sequence[tuple[int, ...]],
    board: tuple[int, ...],
    streets: Sequence[Sequence[Act]],
) -> Hand:
    """The record of a hand that is over, every hole card in it, the winnings as the referee pushed them."""
    hand = dataclasses.replace(
        start,
        holes=tuple(Hole(seat, cards) for seat, cards in sorted(zip(seats, holes))),
        streets=tuple(map(tuple, streets)),
        boards=(board[: BOARD_CARDS[len(streets) - 1]],),
    )
    played = outcome(hand)
    alive = played.pots[0].seats
    results: list[Result]
    if len(alive) == 1:  # the referee gives back the winner's own bet instead of pushing it
        won = state.payoffs[seats.index(alive[0])] + played.contributed[alive[0]]
        results = [Collected(alive[0], won)]
    else:
        shown = [Shown(seat, cards) for seat, cards in zip(seats, holes) if seat in alive]
        results = [*shown, *_collected(state, seats)]
    return dataclasses.replace(hand, returned=played.returned, results=tuple(results))


def _collected(state: Any, seats: Sequence[int]) -> list[Collected]:
    pushes = [move for move in state.operations if type(move).__name__ == "ChipsPushing"]
    names = _pot_names(max((push.pot_index for push in pushes), default=0) + 1)
    return [
        Collected(seat, amount, names[push.pot_index])
        for push in pushes
        for seat, amount in zip(seats, push.amounts)
        if amount
    ]


def _pot_names(count: int) -> list[str]:
    """The words of a log: one pot; main and side; main, side-1, side-2.

    >>> _pot_names(3)
    ['main pot', 'side pot-1', 'side pot-2']
    """
    if count < 3:
        return ["main pot", "side pot"] if count == 2 else ["pot"]
    return ["main pot", *(f"side pot-{i}" for i in range(1, count))]
