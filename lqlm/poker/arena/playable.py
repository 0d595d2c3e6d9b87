"""Recorded hands at the table: which can be played on, and how a hand comes back to one of its decisions."""

import dataclasses
from collections.abc import Generator, Iterable

from lqlm.errors import UserError
from lqlm.poker.arena.observation import Observation
from lqlm.poker.arena.recording import opening, short_big_blind
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.showdowns import BOARD, live_cards
from lqlm.poker.arena.table import Chairs, Deal, hand_in_steps
from lqlm.poker.record import Act, Game, Hand, Hole, Limit, Post, PostKind, known_cards, player_of
from lqlm.poker.replay import in_hand

Steps = Generator[Observation, Act, tuple[Hand, tuple[int, ...]]]
"""A hand at the table, as :func:`lqlm.poker.arena.table.hand_in_steps` makes it."""


def put_in(hand: Hand, seen: Observation) -> float:
    """What the player who decides has put in before, in big blinds: what a fold costs of the whole hand."""
    start = {seat.number: seat.stack for seat in hand.seats}
    return (start[seen.seat] - seen.stacks[seen.seat]) / hand.big_blind


def seen_at(hand: Hand, index: int) -> Observation:
    """What the player of a decision knew.

    Raises:
        UserError: when the hand cannot be played on, or there is no such decision.
    """
    if reason := check_playable(hand):
        raise UserError(reason)
    return come_to(hand, index, logged(hand))[1]


def check_playable(hand: Hand) -> str:
    """Why a hand cannot be played on, in one line; nothing when it can.

    It can when the table's rules are its rules: no-limit hold'em or pot-limit Omaha with small and big blind and equal
    antes (no straddles, dead blinds or caps), whatever the stacks are, and when all hole cards are known.
    """
    where, limits = f"hand {hand.hand_id}", {Game.HOLDEM: Limit.NO_LIMIT, Game.OMAHA: Limit.POT_LIMIT}
    if limits.get(hand.game) is not hand.limit or hand.stakes.cap:
        found = f"{hand.game.value} {hand.limit.value}{' with a cap' if hand.stakes.cap else ''}"
        return f"{where} is {found}; only no-limit Hold'em and pot-limit Omaha without a cap can be played on"
    order, known = in_hand(hand), known_cards(hand)
    if unknown := [seat for seat in order if len(known.get(seat, ())) != hand.game.hole_cards]:
        return f"{where}: the cards of seat {unknown[0]} are not known; take logs with all hole cards"
    every = [*hand.boards[0], *(card for seat in order for card in known[seat])]
    if len(set(every)) < len(every):
        return f"{where}: a card is there twice; mend the log"
    if not 2 <= len(order) <= 10:
        return f"{where} has {len(order)} players; the table has 2 to 10"
    try:
        start = opening(_rules(hand), _stacks(hand), order, [""] * len(order), "")
    except UserError as error:
        return f"{where}: {error}"
    if short_big_blind(start):
        return f"{where}: the big blind is all-in for less, and the table's rules differ from sites' there"
    if _paid(start.posts) != _paid(hand.posts):
        return f"{where}: its forced bets are not a small blind, a big blind and equal antes; take other hands"
    return ""


def with_cards_for_all(hand: Hand) -> Hand:
    """The record with some cards for every player of whom it tells none; no decision shows them.

    Nothing that hangs on these cards is true of the hand: its results are left out.
    """
    known, each = known_cards(hand), hand.game.hole_cards
    rest = iter(live_cards([*hand.boards[0], *(card for held in known.values() for card in held)]).tolist())
    told = {seat: held for seat, held in known.items() if len(held) == each}
    holes = (Hole(seat, told.get(seat) or tuple(next(rest) for _ in range(each))) for seat in in_hand(hand))
    return dataclasses.replace(hand, holes=tuple(holes), results=())


def _paid(posts: Iterable[Post]) -> list[tuple[int, str, int]]:
    return sorted((post.seat, post.kind.value, post.amount) for post in posts)


def _rules(hand: Hand) -> Rules:
    ante = max((post.amount for post in hand.posts if post.kind is PostKind.ANTE), default=0)
    return Rules(hand.game, hand.stakes.small, hand.stakes.big, ante, stack=hand.stakes.big)


def _stacks(hand: Hand) -> tuple[int, ...]:
    of = {seat.number: seat.stack for seat in hand.seats}
    return tuple(of[seat] for seat in in_hand(hand))


def logged(hand: Hand) -> Deal:
    """The cards of the log, any others for public ones that it lacks."""
    holes = [known_cards(hand)[seat] for seat in in_hand(hand)]
    rest = live_cards([*hand.boards[0], *(card for held in holes for card in held)])
    return Deal(tuple(holes), (*hand.boards[0], *rest.tolist())[:BOARD])


def come_to(hand: Hand, index: int, deal: Deal) -> tuple[Steps, Observation]:
    """A hand at the table that has come to a decision."""
    names = player_of(hand)
    chairs = Chairs(_stacks(hand), tuple(in_hand(hand)), tuple(names[seat] for seat in in_hand(hand)))
    steps = hand_in_steps(_rules(hand), chairs, deal, hand.hand_id)
    before = [act for acts in hand.streets for act in acts]
    if not 0 <= index < len(before):
        raise UserError(f"hand {hand.hand_id} has {len(before)} decisions; there is no number {index}")
    try:
        seen = next(steps)
        for act in before[:index]:
            seen = steps.send(act)
    except (ValueError, StopIteration) as error:
        raise UserError(f"hand {hand.hand_id} cannot be replayed to decision {index}: {error}") from error
    if seen.seat != before[index].seat:
        raise UserError(f"hand {hand.hand_id}: decision {index} is not seat {before[index].seat}'s by the rules")
    return steps, as_logged(hand, seen)


def as_logged(hand: Hand, seen: Observation) -> Observation:
    """With the log's own opening, so that its currency is seen too."""
    before = dataclasses.replace(
        hand, holes=(), streets=((),), boards=((),), returned=None, results=(), rake=0, finishes=()
    )
    return dataclasses.replace(seen, opening=before)
