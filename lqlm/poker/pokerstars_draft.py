"""A hand while its lines are read, and the lines that say what a player does."""

import dataclasses
import re

from lqlm.poker import cards
from lqlm.poker.amounts import read_amount
from lqlm.poker.pokerstars_lines import BET, FOLDS, POST, RAISE, SHOWS
from lqlm.poker.record import (
    Act,
    ActKind,
    Finish,
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


@dataclasses.dataclass(slots=True)
class Draft:
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


def _speaker(draft: Draft, line: str) -> tuple[Seat, str] | None:
    """The seat whose name and a colon begin the line, and the rest."""
    end = line.find(": ")
    while end > 0:
        seat = draft.seats.get(line[:end])
        if seat:
            return seat, line[end + 2 :]
        end = line.find(": ", end + 1)
    return None


def read_spoken(draft: Draft, line: str) -> bool:
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


def _read_act(draft: Draft, seat: int, words: str) -> bool:
    if words == "checks":
        draft.streets[-1].append(Act(seat, ActKind.CHECK))
    elif found := FOLDS.match(words):
        draft.streets[-1].append(Act(seat, ActKind.FOLD))
        if found[1]:  # folded face up: known as if dealt openly
            add_hole(draft, seat, cards.cards(found[1]))
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


def _read_showing(draft: Draft, seat: int, words: str) -> bool:
    if found := SHOWS.match(words):
        draft.results.append(Shown(seat, cards.cards(found[1]), found[2] or "", draft.board))
    elif words == "mucks hand":
        draft.results.append(Mucked(seat, (), draft.board))
    elif words == "doesn't show hand":
        draft.results.append(Unshown(seat))
    else:
        return False
    return True


def _read_post(draft: Draft, seat: Seat, words: str) -> bool:
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


def _big_blind(draft: Draft) -> int:
    stakes, limit = draft.head["stakes"], draft.head["limit"]
    return stakes.small if limit == "Limit" else stakes.big


def add_hole(draft: Draft, seat: int, held: tuple[int, ...]) -> None:
    """Cards that somebody was dealt, told once."""
    if all(hole.seat != seat for hole in draft.holes):
        draft.holes.append(Hole(seat, held))
