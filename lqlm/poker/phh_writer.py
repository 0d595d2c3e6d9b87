"""Record -> PHH: the standard fields, and what they cannot say as fields of our own."""

import dataclasses
import json
from decimal import Decimal
from typing import Any

from lqlm.poker import cards
from lqlm.poker.amounts import write_amount
from lqlm.poker.codec import field_to_json
from lqlm.poker.phh import EXTRA, VARIANTS, order_of, read_fields
from lqlm.poker.record import Act, ActKind, Hand, HandError, Limit, Mucked, Post, PostKind, Shown
from lqlm.poker.replay import in_hand, validate

_CODES = {game: code for code, game in VARIANTS.items()}


def render(hand: Hand) -> str:
    """The PHH text of a hand; ``parse(render(hand)) == hand``.

    Raises:
        HandError: when PHH has no such game, or the hand ran twice.
    """
    fields = standard_fields(hand)
    plain = read_fields(fields)
    for field in dataclasses.fields(Hand):
        if getattr(plain, field.name) != getattr(hand, field.name):
            fields[EXTRA + field.name] = json.dumps(field_to_json(hand, field.name), ensure_ascii=False)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in fields.items())


def standard_fields(hand: Hand) -> dict[str, Any]:
    """The fields of the format itself; amounts are exact decimals.

    Raises:
        HandError: as :func:`render`.
    """
    if (hand.game, hand.limit) not in _CODES:
        raise HandError(f"PHH has no variant for {hand.game} {hand.limit}")
    if hand.ran_twice:
        raise HandError("PHH has no second board")
    if hand.stakes.cap:
        raise HandError("PHH has no cap on what a player may put in")
    if len(in_hand(hand)) < len(hand.seats):
        hand = without_absent(hand)
    order = order_of(hand)
    stacks, names = {s.number: s.stack for s in hand.seats}, {s.number: s.player for s in hand.seats}
    antes, blinds = _forced(hand, order)
    final = validate(hand).stacks
    fields = {"variant": _CODES[hand.game, hand.limit], "ante_trimming_status": len(set(antes)) == 1}
    fields |= {"antes": [_number(hand, a) for a in antes], "blinds_or_straddles": [_number(hand, b) for b in blinds]}
    fields |= _bets(hand)
    fields |= {"starting_stacks": [_number(hand, stacks[seat]) for seat in order], "actions": _actions(hand, order)}
    fields |= _where(hand)
    fields |= {"seats": order, "seat_count": hand.table.size, "table": hand.table.name}
    fields |= {"players": [names[seat] for seat in order]}
    return fields | {"finishing_stacks": [_number(hand, final[seat]) for seat in order]}


def without_absent(hand: Hand) -> Hand:
    """The hand without the seats that are not dealt in; an empty button goes to the last player before it."""
    present = in_hand(hand)
    seats = tuple(seat for seat in hand.seats if seat.number in present)
    return dataclasses.replace(hand, seats=seats, table=dataclasses.replace(hand.table, button=present[-1]))


def _bets(hand: Hand) -> dict[str, Any]:
    if hand.limit is Limit.FIXED:
        return {"small_bet": _number(hand, hand.stakes.small), "big_bet": _number(hand, hand.stakes.big)}
    return {"min_bet": _number(hand, hand.stakes.big)}


def _where(hand: Hand) -> dict[str, Any]:
    fields: dict[str, Any] = {"venue": hand.site, "hand": hand.hand_id}
    if hand.time:
        local = hand.time.local
        fields |= {"year": local.year, "month": local.month, "day": local.day, "time": local.time()}
        fields |= {"time_zone": hand.time.zone}
    if hand.money.symbol:
        fields |= {"currency_symbol": hand.money.symbol}
    return fields | ({"currency": hand.money.currency} if hand.money.currency else {})


def _number(hand: Hand, amount: int) -> int | Decimal:
    text = ("-" if amount < 0 else "") + write_amount(abs(amount), hand.money.decimals)
    return Decimal(text) if "." in text else int(text)


def _forced(hand: Hand, order: list[int]) -> tuple[list[int], list[int]]:
    """Antes (with dead blinds) and blinds in the format's order; a blind that was bought is negative."""
    antes, blinds = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
    regular = {PostKind.SMALL, PostKind.BIG}
    for post in hand.posts:
        if post.kind is PostKind.ANTE:
            antes[post.seat] += post.amount
            continue
        live = min(post.amount, hand.big_blind) if post.kind is PostKind.BOTH else post.amount
        antes[post.seat] += post.amount - live
        if post.kind is PostKind.BIG:  # the format has the blind itself; a short stack posts what it has
            live = hand.big_blind
        bought = post.kind is PostKind.BOTH or (post.kind in regular and not _in_turn(hand, order, post))
        blinds[post.seat] += -live if bought else live
    both = [antes[seat] for seat in order], [blinds[seat] for seat in order]
    return (both[0][::-1], both[1][::-1]) if len(order) == 2 else both


def _in_turn(hand: Hand, order: list[int], post: Post) -> bool:
    """Whether a blind is the regular one: among the first two players."""
    return len(order) == 2 or order.index(post.seat) < 2


def _actions(hand: Hand, order: list[int]) -> list[str]:
    names = {seat: f"p{place}" for place, seat in enumerate(order, 1)}
    held = {hole.seat: cards.text(hole.cards, "") for hole in hand.holes}
    lines = [f"d dh {names[seat]} {held.get(seat, '??' * hand.game.hole_cards)}" for seat in order]
    ends = [result for result in hand.results if isinstance(result, Shown | Mucked)]
    last = max((street for street, acts in enumerate(hand.streets) if acts), default=0)
    runout = last < len(hand.streets) - 1  # those who are all-in show before the rest is dealt, and muck after it
    for street, acts in enumerate(hand.streets):
        if street:
            dealt = hand.boards[0][:3] if street == 1 else hand.boards[0][street + 1 : street + 2]
            lines.append(f"d db {cards.text(dealt, '')}")
        lines += [f"{names[act.seat]} {_act(hand, act)}" for act in acts]
        if street == last:
            lines += [_end(hand, names, r) for r in ends if isinstance(r, Shown) or not runout]
    return lines + [_end(hand, names, r) for r in ends if isinstance(r, Mucked) and runout]


def _end(hand: Hand, names: dict[int, str], result: Shown | Mucked) -> str:
    return f"{names[result.seat]} sm{_cards(hand, result)}"


def _cards(hand: Hand, result: Shown | Mucked) -> str:
    if isinstance(result, Mucked):
        return ""
    return f" {cards.text(result.cards, '')}" + "??" * (hand.game.hole_cards - len(result.cards))


def _act(hand: Hand, act: Act) -> str:
    if act.kind in (ActKind.BET, ActKind.RAISE):
        return f"cbr {write_amount(act.amount, hand.money.decimals)}"
    return "f" if act.kind is ActKind.FOLD else "cc"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
