"""The first lines of a PokerStars hand, both ways: game, stakes, tournament, time, table, seats."""

import dataclasses
import datetime
import re

from lqlm.poker.amounts import read_amount, with_symbol, write_amount
from lqlm.poker.record import Game, Hand, HandError, Limit, Money, Seat, Stakes, Table, Time, Tournament

START = re.compile(r"PokerStars (?:Home Game )?(?:Zoom )?(?:Hand|Game) #\d+:")
_GAMES = "|".join(sorted((re.escape(game.value) for game in Game), key=len, reverse=True))
_GAME = rf"(?P<game>{_GAMES}) (?P<limit>No Limit|Pot Limit|Limit)"
_STAKES = (
    r"(?P<symbol>[^\d\s(),]*)(?P<small>[\d.]+)/(?P=symbol)(?P<big>[\d.]+)"
    r"(?: - (?P=symbol)(?P<cap>[\d.]+) Cap - )?\s*(?P<currency>[A-Z]{3})?"
)
_FRONT = r"PokerStars (?P<kind>[\w ]+) #(?P<id>\d+):\s+(?:\{(?P<club>[^}]*)\}\s+)?"
_CLOCK = r"\d{4}/\d\d?/\d\d? \d{1,2}:\d\d:\d\d"
_TIME = rf"(?: - (?P<local>{_CLOCK})(?: (?P<zone>[A-Z]+))?(?: \[(?P<eastern>{_CLOCK}) ET\])?)?\s*$"
_TOURNAMENT = r"Tournament #(?P<number>\d+), (?P<buy_in>\S+(?: [A-Z]{3})?)\s+"
_LEVEL = r" - (?:(?P<match>Match Round [^,]+), )?Level (?P<level>\w+) \((?P<small>[\d.]+)/(?P<big>[\d.]+)\)"
_HEADERS = tuple(
    re.compile(_FRONT + middle + _TIME)
    for middle in (
        rf"{_GAME} \({_STAKES}\)",
        rf"(?P<mixed>[^(]+?) \({_GAME}, {_STAKES}\)",
        rf"{_TOURNAMENT}{_GAME}{_LEVEL}",
        rf"{_TOURNAMENT}(?P<mixed>\S[^(]*?) \({_GAME}\){_LEVEL}",
    )
)
_OTHER = re.compile(r"(7 Card Stud(?: Hi/Lo)?|Razz|[\w -]*Draw|Badugi|5 Card Draw|[\w ]*Courchevel[\w /]*|6\+ Hold'em)")
_TABLE = re.compile(
    r"Table '(?P<name>.*)' (?P<size>\d+)-max (?P<play>\(Play Money\) )?Seat #(?P<button>\d+) is the button\s*$"
)
_SEAT = re.compile(
    r"Seat (?P<number>\d+): (?P<player>.+) \((?P<symbol>[^\d\s(]*)(?P<stack>[\d.]+) in chips"
    r"(?:, (?P<bounty>\S+) bounty)?\)\s*(?P<status>is sitting out|out of hand.*)?\s*$"
)


def read_header(line: str, decimals: int | None = None) -> dict[str, object]:
    """The fields of :class:`Hand` that the first line gives.

    Args:
        line: the first line.
        decimals: of amounts; None for those of the currency.

    Raises:
        HandError: naming the game when it is none of :class:`Game`.
    """
    found = next((match for match in (header.match(line) for header in _HEADERS) if match), None)
    if not found:
        other = _OTHER.search(line)
        raise HandError(f"game not read: {other[1].strip()}" if other else f"header not understood: {line[:120]!r}")
    get = found.groupdict().get
    money = Money(get("currency") or "", get("symbol") or "", 0)
    money = dataclasses.replace(money, decimals=money.least_decimals if decimals is None else decimals)
    amounts = (read_amount(get(name) or "0", money.decimals) for name in ("small", "big", "cap"))
    return {
        "hand_id": found["id"],
        "game": Game(found["game"]),
        "limit": Limit(found["limit"]),
        "stakes": Stakes(*amounts),
        "money": money,
        "mixed": get("mixed") or "",
        "time": _read_time(found),
        "tournament": _tournament(found) if get("number") else None,
        "table": Table("", 0, 0, zoom="Zoom" in found["kind"], club=get("club") or ""),
    }


def _tournament(found: re.Match[str]) -> Tournament:
    return Tournament(found["number"], found["buy_in"], found["level"], found["match"] or "")


def _read_time(found: re.Match[str]) -> Time | None:
    if not found["local"]:
        return None
    eastern = found["eastern"]
    return Time(_clock(found["local"]), found["zone"] or "", _clock(eastern) if eastern else None)


def _clock(text: str) -> datetime.datetime:
    try:
        return datetime.datetime(*map(int, re.split(r"[/ :]", text)))  # type: ignore[arg-type]
    except ValueError as error:
        raise HandError(f"{text} is no time") from error


def read_table(line: str, table: Table) -> Table:
    """The table of the second line, with what the first line said of it.

    Raises:
        HandError: when the line is something else.
    """
    found = _TABLE.match(line)
    if not found:
        raise HandError(f"no table in the second line: {line[:80]!r}")
    play = bool(found["play"])
    return dataclasses.replace(
        table, name=found["name"], size=int(found["size"]), button=int(found["button"]), play_money=play
    )


def read_seat(line: str, decimals: int) -> Seat | None:
    """The seat of a line, None when the line is something else."""
    found = _SEAT.match(line)
    if not found:
        return None
    stack = read_amount(found["stack"], decimals)
    return Seat(int(found["number"]), found["player"], stack, (found["status"] or "").strip(), found["bounty"] or "")


def write_header(hand: Hand) -> str:
    """The first line."""
    kind = ("Home Game " if hand.table.club else "") + ("Zoom " if hand.table.zoom else "") + "Hand"
    club = f"{{{hand.table.club}}}  " if hand.table.club else ""
    front = f"PokerStars {kind} #{hand.hand_id}:{' ' if hand.tournament and not club else '  '}{club}"
    game = f"{hand.game.value} {hand.limit.value}"
    if not hand.tournament:
        stakes = _write_stakes(hand)
        return front + (f"{hand.mixed} ({game}, {stakes})" if hand.mixed else f"{game} ({stakes})") + _write_time(hand)
    event = hand.tournament
    match = f"{event.match}, " if event.match else ""
    small, big = (write_amount(amount, hand.money.decimals) for amount in (hand.stakes.small, hand.stakes.big))
    of_game = f"{hand.mixed} ({game})" if hand.mixed else game
    level = f" - {match}Level {event.level} ({small}/{big})"
    return f"{front}Tournament #{event.number}, {event.buy_in} {of_game}{level}{_write_time(hand)}"


def _write_stakes(hand: Hand) -> str:
    money, both = hand.money, (hand.stakes.small, hand.stakes.big)
    whole = all(amount % 10**money.decimals == 0 for amount in both)
    small, big = (with_symbol(amount, money) for amount in both)
    if money.symbol and not whole:  # $0.50/$1.00
        small, big = (text if "." in text else f"{text}.00" for text in (small, big))
    currency = f" {money.currency}" if money.currency else ""
    cap = f" - {with_symbol(hand.stakes.cap, money)} Cap - " if hand.stakes.cap else ""
    return f"{small}/{big}{cap}{currency}"


def _write_time(hand: Hand) -> str:
    if hand.time is None:  # the site always has one; hands of other sources may not
        return ""
    eastern = f" [{_write_clock(hand.time.eastern)} ET]" if hand.time.eastern else ""
    zone = f" {hand.time.zone}" if hand.time.zone else ""
    return f" - {_write_clock(hand.time.local)}{zone}{eastern}"


def _write_clock(clock: datetime.datetime) -> str:
    return f"{clock:%Y/%m/%d} {clock.hour}:{clock:%M:%S}"


def write_table(hand: Hand) -> str:
    """The second line."""
    play = "(Play Money) " if hand.table.play_money else ""
    return f"Table '{hand.table.name}' {hand.table.size}-max {play}Seat #{hand.table.button} is the button"


def write_seat(seat: Seat, money: Money) -> str:
    """The line of a seat."""
    bounty = f", {seat.bounty} bounty" if seat.bounty else ""
    status = f" {seat.status}" if seat.status else ""
    return f"Seat {seat.number}: {seat.player} ({with_symbol(seat.stack, money)} in chips{bounty}){status}"
