"""Decisions from the rows of ``experiments.poker select``: those that can be played on, spread over the file."""

import dataclasses
import hashlib
import heapq
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from lqlm.errors import UserError
from lqlm.poker.codec import from_json, to_json
from lqlm.poker.record import HandError, known_cards
from lqlm.poker.replay import Decision, replay
from lqlm.poker.state import word_of
from lqlm.tasks.poker_values import Place

STREETS = ("preflop", "flop", "turn", "river")
Balance = Literal["none", "streets", "words"]
Cards = Literal["all", "own"]


class Found(NamedTuple):
    """A decision of a file: its place in the order by hashes, its line, and where it is."""

    order: int
    line: int
    place: Place


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which decisions are taken.

    Attributes:
        streets: only those of these.
        limit: at most so many (0: all); memory does not grow beyond them.
        balance: in equal shares of streets or of the words that were played, or as they come.
        seed: of the order.
        cards: whose must be known: those of ``all`` players of a hand, or the ``own`` ones of the player who decides.
    """

    streets: tuple[str, ...] = STREETS
    limit: int = 0
    balance: Balance = "none"
    seed: int = 0
    cards: Cards = "all"


def choose(source: str, choice: Choice) -> list[Found]:
    """Decisions of a file, in an order by hashes.

    Hands that the table cannot play on are left out, and with ``cards`` "all" those in which a player's cards are
    unknown; with "own" such players are dealt some, which no question shows.

    Args:
        source: .jsonl file of ``experiments.poker select``.
        choice: which.

    Raises:
        UserError: for a file or a hand that cannot be read, and when there is no such decision.
    """
    kept: dict[str, list[tuple[int, Found]]] = {}
    left_out: list[str] = []
    for name, found in _decisions(source, choice, left_out):
        heap = kept.setdefault(name, [])
        heapq.heappush(heap, (-found.order, found))
        if choice.limit and len(heap) > choice.limit:
            heapq.heappop(heap)  # the last in the order
    chosen = _in_turn([sorted(found for _, found in kept[name]) for name in sorted(kept)], choice.limit)
    if not chosen:
        why = f"; {len(left_out)} hands left out, the first at {left_out[0]}" if left_out else ""
        raise UserError(f"poker task: no decision of {', '.join(choice.streets)} in {source}{why}")
    return chosen


def _in_turn(classes: list[list[Found]], limit: int) -> list[Found]:
    """One of each class in turn up to the limit; without a limit until one class is used up."""
    sizes = [len(found) for found in classes] or [0]
    turns = range(max(sizes) if limit else min(sizes))
    return [found[turn] for turn in turns for found in classes if turn < len(found)][: limit or None]


def _decisions(source: str, choice: Choice, left_out: list[str]) -> Iterator[tuple[str, Found]]:
    """Decisions with their class; why hands are left out is added to the list."""
    from lqlm.poker.arena.playable import check_playable, with_cards_for_all  # pokerkit is an optional extra

    for line, row in _rows(source):
        where = f"{source}, line {line}"
        try:
            hand = from_json(row["hand"])
            decisions = replay(hand).decisions
        except (HandError, LookupError, TypeError) as error:
            raise UserError(f"{where}: a hand that cannot be replayed ({error}); make the file with select") from error
        seats = known_cards(hand).keys()
        if choice.cards == "own":
            hand = with_cards_for_all(hand)
        if reason := check_playable(hand):
            left_out.append(f"line {line}: {reason}")
            continue
        text = json.dumps(to_json(hand), ensure_ascii=False, separators=(",", ":"))
        for decision in decisions:
            if STREETS[decision.street] in choice.streets and decision.seat in seats:
                place = Place(text, decision.index)
                yield _class(decision, choice.balance), Found(_order(choice.seed, line, decision.index), line, place)


def _class(decision: Decision, balance: Balance) -> str:
    return {"none": "", "streets": str(decision.street), "words": word_of(decision.act)}[balance]


def _order(seed: int, line: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{line}/{index}".encode(), digest_size=8).digest())


def _rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pathlib.Path(source).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}, line {number}: no JSON ({error}); make the file with select") from error
    except (OSError, UnicodeDecodeError) as error:
        cure = "give a .jsonl file of `python -m experiments.poker select`"
        raise UserError(f"poker task: {source!r} cannot be read ({error}); {cure}") from error
