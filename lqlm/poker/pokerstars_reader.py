"""PokerStars text -> record.  Chat and comings and goings are dropped; every other line must be understood."""

import dataclasses
import re
from collections.abc import Sequence

from lqlm.poker import cards
from lqlm.poker.amounts import read_amount
from lqlm.poker.pokerstars_check import check, unround
from lqlm.poker.pokerstars_header import read_header, read_seat, read_table
from lqlm.poker.pokerstars_lines import (
    BET,
    CHATTER,
    COLLECTED,
    COUNTS,
    DEALT,
    FINISH,
    FOLDS,
    NOT_READ,
    POST,
    RAISE,
    SHOWDOWN,
    SHOWS,
    STREET,
    TOLD,
    TOTAL,
    UNCALLED,
)
from lqlm.poker.record import (
    Act,
    ActKind,
    Collected,
    Finish,
    Hand,
    HandError,
    Hole,
    Mucked,
    Post,
    PostKind,
    Result,
    Returned,
    Seat,
    Shown,
    Unshown,
)
from lqlm.poker.units import canonical


class LineError(HandError):
    """A line that cannot be read; ``line`` counts from 0 at the hand's first line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclasses.dataclass(slots=True)
class _Draft:
    """A hand while its lines are read."""

    decimals: int
    head: dict
    seats: dict[str, Seat] = dataclasses.field(default_factory=dict)
    posts: list[Post] = dataclasses.field(default_factory=list)
    holes: list[Hole] = dataclasses.field(default_factory=list)
    streets: list[list[Act]] = dataclasses.field(default_factory=lambda: [[]])
    boards: list[list[int]] = dataclasses.field(default_factory=lambda: [[]])
    results: list[Result] = dataclasses.field(default_factory=list)
    finishes: list[Finish] = dataclasses.field(default_factory=list)
    returned: Returned | None = None
    level: int = 0
    board: int = 0
    begun: bool = False
    summary: bool = False
    total: int | None = None
    rake: int = 0


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
                draft = _Draft(head["money"].decimals, head)  # type: ignore[attr-defined]
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


def _read_line(draft: _Draft, line: str) -> None:
    if draft.summary:
        _read_summary(draft, line)
    elif line.startswith("*** "):
        _read_marker(draft, line)
    elif not draft.begun and line.startswith("Seat ") and (seat := read_seat(line, draft.decimals)):
        if seat.player in draft.seats:
            raise HandError(f"two seats of {seat.player!r}")
        draft.seats[seat.player] = seat
    elif not _read_spoken(draft, line) and not _read_other(draft, line):
        raise HandError(f"line not understood: {line[:120]!r}")


def _read_marker(draft: _Draft, line: str) -> None:
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


def _deal(draft: _Draft, board: int, street: str, shown: tuple[int, ...]) -> None:
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


def _speaker(draft: _Draft, line: str) -> tuple[Seat, str] | None:
    """The seat whose name and a colon begin the line, and the rest."""
    end = line.find(": ")
    while end > 0:
        seat = draft.seats.get(line[:end])
        if seat:
            return seat, line[end + 2 :]
        end = line.find(": ", end + 1)
    return None


def _read_spoken(draft: _Draft, line: str) -> bool:
    """A line "name: does something"."""
    spoken = _speaker(draft, line)
    if spoken is None:
        return False
    seat, words = spoken
    return (
        _read_act(draft, seat.number, words)
        or _read_showing(draft, seat.number, words)
        or _read_post(draft, seat, words)
    )


def _read_act(draft: _Draft, seat: int, words: str) -> bool:
    if words == "checks":
        draft.streets[-1].append(Act(seat, ActKind.CHECK))
    elif found := FOLDS.match(words):
        draft.streets[-1].append(Act(seat, ActKind.FOLD))
        if found[1]:  # folded face up: known as if dealt openly
            _add_hole(draft, seat, cards.cards(found[1]))
    elif found := BET.match(words):
        amount, kind = read_amount(found[2], draft.decimals), ActKind(found[1])
        draft.streets[-1].append(Act(seat, kind, amount, _all_in(found)))
        draft.level = amount if kind is ActKind.BET else draft.level
    elif found := RAISE.match(words):
        by, to = read_amount(found[1], draft.decimals), read_amount(found[2], draft.decimals)
        if to - by != draft.level:
            raise HandError(f"a raise by {found[1]} to {found[2]}, but the bet is not the difference")
        draft.streets[-1].append(Act(seat, ActKind.RAISE, to, _all_in(found)))
        draft.level = to
    else:
        return False
    return True


def _all_in(found: re.Match[str]) -> bool:
    return (found["end"] or "").endswith("all-in")


def _read_showing(draft: _Draft, seat: int, words: str) -> bool:
    if found := SHOWS.match(words):
        draft.results.append(Shown(seat, cards.cards(found[1]), found[2] or "", draft.board))
    elif words == "mucks hand":
        draft.results.append(Mucked(seat, (), draft.board))
    elif words == "doesn't show hand":
        draft.results.append(Unshown(seat))
    else:
        return False
    return True


def _read_post(draft: _Draft, seat: Seat, words: str) -> bool:
    if found := POST.match(words):
        kind, amount = PostKind(found[1]), read_amount(found[2], draft.decimals)
        draft.posts.append(Post(seat.number, kind, amount, _all_in(found)))
        if kind is PostKind.STRADDLE or kind is PostKind.BUTTON:
            draft.level = max(draft.level, amount)
        elif kind is not PostKind.ANTE:  # the price of a call is a whole big blind, though it is posted short
            draft.level = max(draft.level, _big_blind(draft) if kind is not PostKind.SMALL else amount)
    elif words in ("is sitting out", "sits out"):
        if not draft.begun:
            draft.seats[seat.player] = dataclasses.replace(seat, status="is sitting out")
    else:
        return False
    return True


def _big_blind(draft: _Draft) -> int:
    stakes, limit = draft.head["stakes"], draft.head["limit"]
    return stakes.small if limit == "Limit" else stakes.big


def _add_hole(draft: _Draft, seat: int, held: tuple[int, ...]) -> None:
    if all(hole.seat != seat for hole in draft.holes):
        draft.holes.append(Hole(seat, held))


def _read_other(draft: _Draft, line: str) -> bool:
    if found := COLLECTED.match(line):
        amount = read_amount(found[2], draft.decimals)
        draft.results.append(Collected(_seat(draft, found[1]), amount, found[3], draft.board))
    elif found := UNCALLED.match(line):
        draft.returned = Returned(_seat(draft, found[2]), read_amount(found[1], draft.decimals))
    elif found := DEALT.match(line):
        _add_hole(draft, _seat(draft, found[1]), cards.cards(found[2]))
    elif (found := FINISH.match(line)) and found[1] in draft.seats:
        draft.finishes.append(Finish(found[1], found[2]))
    else:
        for words, reason in NOT_READ.items():
            if words in line and not re.search(r' said, "', line):
                raise HandError(reason)
        return bool(CHATTER.search(line))
    return True


def _seat(draft: _Draft, name: str) -> int:
    if name not in draft.seats:
        raise HandError(f"{name!r} has no seat")
    return draft.seats[name].number


def _read_summary(draft: _Draft, line: str) -> None:
    if found := TOTAL.match(line):
        draft.total, draft.rake = (read_amount(found[i], draft.decimals) for i in (1, 2))
    elif found := TOLD.match(line):
        _tell(draft, int(found[1]), cards.cards(found[2]))


def _tell(draft: _Draft, seat: int, held: tuple[int, ...]) -> None:
    """The summary names the cards of a hand that was mucked."""
    for at, result in enumerate(draft.results):
        if isinstance(result, Mucked) and result.seat == seat:
            draft.results[at] = dataclasses.replace(result, cards=held)
    if not any(isinstance(r, Shown | Mucked) and r.seat == seat for r in draft.results):
        draft.results.append(Mucked(seat, held))


def _finish(draft: _Draft | None) -> Hand:
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
