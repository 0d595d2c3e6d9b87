"""PokerStars text -> record.  Chat and comings and goings are dropped; every other line must be understood."""

import dataclasses
import re
from collections.abc import Sequence

from lqlm.poker import cards
from lqlm.poker.amounts import read_amount
from lqlm.poker.pokerstars_check import check, unround
from lqlm.poker.pokerstars_draft import Draft, add_hole, read_spoken
from lqlm.poker.pokerstars_header import read_header, read_seat, read_table
from lqlm.poker.pokerstars_lines import (
    CHATTER,
    COLLECTED,
    COUNTS,
    DEALT,
    FINISH,
    NOT_READ,
    SHOWDOWN,
    STREET,
    TOLD,
    TOTAL,
    UNCALLED,
)
from lqlm.poker.record import (
    Collected,
    Finish,
    Hand,
    HandError,
    Mucked,
    Returned,
    Shown,
)
from lqlm.poker.units import canonical


class LineError(HandError):
    """A line that cannot be read; ``line`` counts from 0 at the hand's first line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> Hand:
    """The hand of a PokerStars text, checked: it replays and conserves chips.

    Args:
        text: one hand, from its header to the end of its summary.

    Raises:
        LineError: naming what is wrong and the line.
    """
    return parse_lines(text.splitlines())


def parse_lines(lines: Sequence[str]) -> Hand:
    """As :func:`parse`, of lines."""
    try:
        return _parse(lines, None)
    except _MoreDecimals as more:
        return _parse(lines, more.decimals)


class _MoreDecimals(Exception):
    def __init__(self, decimals: int) -> None:
        self.decimals = decimals


def _parse(lines: Sequence[str], decimals: int | None) -> Hand:
    at, draft = 0, None
    try:
        for at, raw in enumerate(lines):  # noqa: B007
            line = raw.strip()
            if not line:
                continue
            if draft is None:
                head = read_header(line, decimals)
                draft = Draft(head["money"].decimals, head)  # type: ignore[attr-defined]
            elif not draft.head["table"].size:
                draft.head["table"] = read_table(line, draft.head["table"])
            else:
                _read_line(draft, line)
        return _finish(draft)
    except ValueError as error:  # of a rule, an amount or a card
        deep = max((len(part) for part in re.findall(r"\d\.(\d+)", "\n".join(lines))), default=0)
        if decimals is None and draft is not None and deep > draft.decimals and "is no amount" in str(error):
            raise _MoreDecimals(deep) from error
        raise LineError(str(error), at) from error


def _read_line(draft: Draft, line: str) -> None:
    if draft.summary:
        _read_summary(draft, line)
    elif line.startswith("*** "):
        _read_marker(draft, line)
    elif not draft.begun and line.startswith("Seat ") and (seat := read_seat(line, draft.decimals)):
        if seat.player in draft.seats:
            raise HandError(f"two seats of {seat.player!r}")
        draft.seats[seat.player] = seat
    elif not read_spoken(draft, line) and not _read_other(draft, line):
        raise HandError(f"line not understood: {line[:120]!r}")


def _read_marker(draft: Draft, line: str) -> None:
    if line == "*** SUMMARY ***":
        draft.summary = True
    elif line == "*** HOLE CARDS ***":
        draft.begun = True
    elif found := SHOWDOWN.match(line):
        draft.board = int(found[1] == "SECOND")
    elif found := STREET.match(line):
        _deal(draft, int(found[1] == "SECOND"), found[2], cards.cards(re.sub(r"[\[\]\s]", "", found[3])))
    else:
        raise HandError(f"line not understood: {line[:120]!r}")


def _deal(draft: Draft, board: int, street: str, shown: tuple[int, ...]) -> None:
    if len(shown) != COUNTS[street]:
        raise HandError(f"the {street.lower()} has {len(shown)} public cards")
    if board and len(draft.boards) == 1:
        draft.boards.append([])
    if draft.boards[board] and tuple(draft.boards[board]) != shown[: len(draft.boards[board])]:
        raise HandError(f"the {street.lower()} changes cards that were dealt before")
    draft.boards[board] = list(shown)
    while len(draft.streets) < COUNTS[street] - 1:
        draft.streets.append([])
    draft.level = 0


def _read_other(draft: Draft, line: str) -> bool:
    if found := COLLECTED.match(line):
        amount = read_amount(found[2], draft.decimals)
        draft.results.append(Collected(_seat(draft, found[1]), amount, found[3], draft.board))
    elif found := UNCALLED.match(line):
        draft.returned = Returned(_seat(draft, found[2]), read_amount(found[1], draft.decimals))
    elif found := DEALT.match(line):
        add_hole(draft, _seat(draft, found[1]), cards.cards(found[2]))
    elif (found := FINISH.match(line)) and found[1] in draft.seats:
        draft.finishes.append(Finish(found[1], found[2]))
    else:
        for words, reason in NOT_READ.items():
            if words in line and not re.search(r' said, "', line):
                raise HandError(reason)
        return bool(CHATTER.search(line))
    return True


def _seat(draft: Draft, name: str) -> int:
    if name not in draft.seats:
        raise HandError(f"{name!r} has no seat")
    return draft.seats[name].number


def _read_summary(draft: Draft, line: str) -> None:
    if found := TOTAL.match(line):
        draft.total, draft.rake = (read_amount(found[i], draft.decimals) for i in (1, 2))
    elif found := TOLD.match(line):
        _tell(draft, int(found[1]), cards.cards(found[2]))


def _tell(draft: Draft, seat: int, held: tuple[int, ...]) -> None:
    """The summary names the cards of a hand that was mucked."""
    for at, result in enumerate(draft.results):
        if isinstance(result, Mucked) and result.seat == seat:
            draft.results[at] = dataclasses.replace(result, cards=held)
    if not any(isinstance(r, Shown | Mucked) and r.seat == seat for r in draft.results):
        draft.results.append(Mucked(seat, held))


def _finish(draft: Draft | None) -> Hand:
    if draft is None or not draft.head["table"].size:
        raise HandError("the hand has no table: the log was cut")
    if draft.total is None:
        raise HandError("the hand has no summary with a total pot: the log was cut")
    hand = Hand(
        **draft.head,
        seats=tuple(draft.seats.values()),
        posts=tuple(draft.posts),
        holes=tuple(draft.holes),
        streets=tuple(map(tuple, draft.streets)),
        boards=tuple(map(tuple, draft.boards)),
        returned=draft.returned,
        results=tuple(draft.results),
        rake=draft.rake,
        finishes=tuple(draft.finishes),
    )
    hand, total = unround(hand, draft.total)
    return canonical(check(hand, total))
