"""PHH, the Poker Hand History file format (arXiv 2312.11753), in both directions: hold'em and Omaha.

A PHH file is TOML; its players stand from the left of the button on.  What the format has no field for (rake, the log's
order of posts, side pots, two clocks) goes into fields of the user's own, ``_lqlm_NAME``, as JSON, and is read back;
another reader sees a valid hand without them.
"""

import dataclasses
import datetime
import json
from collections.abc import Iterable
from typing import Any

from lqlm.poker import cards
from lqlm.poker.codec import field_from_json
from lqlm.poker.phh_fields import Fields, load
from lqlm.poker.phh_results import winnings
from lqlm.poker.record import (
    Act,
    ActKind,
    Collected,
    Game,
    Hand,
    HandError,
    Hole,
    Limit,
    Money,
    Mucked,
    Post,
    PostKind,
    Result,
    Seat,
    Shown,
    Stakes,
    Table,
    Time,
)
from lqlm.poker.replay import Betting, act, begin, next_street, outcome, validate
from lqlm.poker.units import canonical

VARIANTS: dict[str, tuple[Game, Limit]] = {
    "FT": (Game.HOLDEM, Limit.FIXED),
    "NT": (Game.HOLDEM, Limit.NO_LIMIT),
    "PO": (Game.OMAHA, Limit.POT_LIMIT),
    "FO/8": (Game.OMAHA_HILO, Limit.FIXED),
}
OTHER_VARIANTS = {
    "NS": "short-deck hold'em",
    "F7S": "seven card stud",
    "F7S/8": "seven card stud hi/lo",
    "FR": "razz",
    "N2L1D": "deuce-to-seven single draw",
    "F2L3D": "deuce-to-seven triple draw",
    "FB": "badugi",
}
EXTRA = "_lqlm_"


def parse(text: str, table: str = "") -> Hand:
    """The hand of a PHH text, checked: it replays and conserves chips.

    Args:
        text: TOML of one hand.
        table: its table where the file names none.

    Raises:
        HandError: naming what is wrong.
    """
    try:
        return _parse(load(text), table)
    except HandError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A file may hold anything in place of a list, a number or an action's words.
        told = " ".join(str(error).split())[:120]
        raise HandError(f"a field or an action of another form than PHH's ({type(error).__name__}: {told})") from error


def _parse(data: dict[str, Any], table: str) -> Hand:
    hand = read_fields(data, table)
    extra = {name.removeprefix(EXTRA): held for name, held in data.items() if name.startswith(EXTRA)}
    if extra:
        known = {field.name for field in dataclasses.fields(Hand)}
        if set(extra) - known:
            raise HandError(f"no field of a hand: {EXTRA}{min(set(extra) - known)}")
        hand = dataclasses.replace(hand, **{name: field_from_json(name, json.loads(extra[name])) for name in extra})
    if not extra:
        hand = canonical(hand)
    validate(hand)
    return hand


def read_fields(data: dict[str, Any], table: str = "") -> Hand:
    """The hand of the standard fields of PHH alone.

    Raises:
        HandError: naming the field that is missing, or what the file does not say.
    """
    reader = Fields(data)
    game, limit = _variant(reader.need("variant"))
    stacks = [reader.amount(stack) for stack in reader.need("starting_stacks")]
    money = Money(str(data.get("currency", "")), str(data.get("currency_symbol", "")), reader.decimals)
    hand = Hand(
        hand_id=str(data.get("hand", "")),
        game=game,
        limit=limit,
        stakes=_stakes(reader, limit),
        money=money,
        table=_table(data, len(stacks), table),
        seats=_seats(data, stacks),
        time=_time(data),
        site=str(data.get("venue", "PHH")),
    )
    hand = dataclasses.replace(hand, posts=_posts(hand, reader))
    hand = _play(hand, [str(words) for words in reader.need("actions")], reader)
    played = outcome(hand)
    won, rake = winnings(hand, played, order_of(hand), data, reader)
    paid = tuple(Collected(seat, won[seat]) for seat in order_of(hand) if won.get(seat))
    return dataclasses.replace(hand, returned=played.returned, results=hand.results + paid, rake=rake)


def _variant(code: object) -> tuple[Game, Limit]:
    if code not in VARIANTS:
        raise HandError(f"game not read: {OTHER_VARIANTS.get(str(code), f'variant {code!r}')}")
    return VARIANTS[str(code)]


def _stakes(reader: Fields, limit: Limit) -> Stakes:
    if limit is Limit.FIXED:
        return Stakes(reader.amount(reader.need("small_bet")), reader.amount(reader.need("big_bet")))
    blinds = [reader.amount(blind) for blind in reader.need("blinds_or_straddles")[:2]]
    return Stakes(min(blinds), reader.amount(reader.need("min_bet")))


def _table(data: dict[str, Any], players: int, table: str) -> Table:
    numbers = data.get("seats") or list(range(1, players + 1))
    return Table(str(data.get("table", table)), int(data.get("seat_count", players)), int(numbers[-1]))


def _seats(data: dict[str, Any], stacks: list[int]) -> tuple[Seat, ...]:
    count = len(stacks)
    numbers = data.get("seats") or list(range(1, count + 1))
    names = data.get("players") or [f"p{i}" for i in range(1, count + 1)]
    if len(numbers) != count or len(names) != count:
        raise HandError(f"{count} stacks, {len(names)} players and {len(numbers)} seats")
    return tuple(sorted(map(Seat, map(int, numbers), map(str, names), stacks), key=lambda seat: seat.number))


def _time(data: dict[str, Any]) -> Time | None:
    if not all(isinstance(data.get(name), int) for name in ("year", "month", "day")):
        return None
    clock = data.get("time", datetime.time())
    try:
        day = datetime.date(data["year"], data["month"], data["day"])
    except ValueError as error:
        raise HandError(f"no date: {error}") from error
    return Time(datetime.datetime.combine(day, clock), str(data.get("time_zone", "")))


def order_of(hand: Hand) -> list[int]:
    """Seats as PHH's p1, p2, ...: from the left of the button on."""
    numbers = sorted(seat.number for seat in hand.seats)
    return [n for n in numbers if n > hand.table.button] + [n for n in numbers if n <= hand.table.button]


def _posts(hand: Hand, reader: Fields) -> tuple[Post, ...]:
    """Antes, then blinds, straddles and (negative) blinds of those who came in, cut to the stacks."""
    order = order_of(hand)
    stacks = {seat.number: seat.stack for seat in hand.seats}
    posts = []
    lists = (reader.need("antes"), reader.need("blinds_or_straddles"))
    for is_blind, amounts in enumerate(lists):
        by_seat = list(reversed(amounts)) if len(order) == 2 else amounts  # heads-up the button is the small blind
        for place, (seat, value) in enumerate(zip(order, by_seat, strict=True)):
            amount = min(reader.amount(abs(value)), stacks[seat])
            if amount:
                stacks[seat] -= amount
                kind = _kind(place, len(order), value < 0) if is_blind else PostKind.ANTE
                posts.append(Post(seat, kind, amount, stacks[seat] == 0))
    return tuple(sorted(posts, key=lambda post: post.kind is PostKind.BIG and len(order) == 2))


def _kind(place: int, players: int, bought: bool) -> PostKind:
    first, second = (1, 0) if players == 2 else (0, 1)
    if bought or place == second:
        return PostKind.BIG
    return PostKind.SMALL if place == first else PostKind.STRADDLE


def _play(hand: Hand, actions: list[str], reader: Fields) -> Hand:
    """The hand with its cards and decisions."""
    order, state = order_of(hand), begin(hand)
    streets, board = [list[Act]()], list[int]()
    holes, results = list[Hole](), list[Result]()
    for line in actions:
        words = line.split("#")[0].split()
        if words[:2] == ["d", "dh"]:
            holes += [Hole(_seat(order, words[2]), cards.cards(words[3]))] if "?" not in words[3] else []
        elif words[:2] == ["d", "db"]:
            board += cards.cards(words[2])
            streets.append([])
            next_street(state)
        elif words[1:2] == ["sm"]:
            results.append(_showing(_seat(order, words[0]), words[2:], holes))
        elif words:
            item = _act(state, _seat(order, words[0]), words[1:], reader)
            act(state, item)
            streets[-1].append(item)
    return dataclasses.replace(
        hand,
        holes=tuple(sorted(holes, key=lambda hole: hole.seat)),
        streets=tuple(map(tuple, streets)),
        boards=(tuple(board),),
        results=tuple(results),
    )


def _seat(order: list[int], player: str) -> int:
    number = player[1:]
    if player[:1] != "p" or not number.isdecimal() or not 1 <= int(number) <= len(order):
        raise HandError(f"no player {player!r}")
    return order[int(number) - 1]


def _showing(seat: int, words: list[str], holes: Iterable[Hole]) -> Result:
    if words == ["-"]:  # shows what was dealt
        return Shown(seat, next((hole.cards for hole in holes if hole.seat == seat), ()))
    return Shown(seat, cards.cards(words[0])) if words and "?" not in words[0] else Mucked(seat)


def _act(state: Betting, seat: int, words: list[str], reader: Fields) -> Act:
    """A decision: ``f``, ``cc`` or ``cbr AMOUNT``."""
    bet, own, stack = state.bet, state.bets[seat], state.stacks[seat]
    if words == ["f"]:
        return Act(seat, ActKind.FOLD)
    if words == ["cc"]:
        call = min(bet - own, stack)
        return Act(seat, ActKind.CALL, call, call == stack) if call else Act(seat, ActKind.CHECK)
    if words[:1] == ["cbr"] and len(words) == 2:
        to = reader.amount(words[1])
        return Act(seat, ActKind.RAISE if bet else ActKind.BET, to, to - own == stack)
    raise HandError(f"action not understood: {' '.join(words)!r}")
