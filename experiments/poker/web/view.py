"""What a page is told of a table: public things, the person's cards, and after the hand the cards that were shown.

Everything here comes from the person's :class:`lqlm.poker.arena.observation.Observation`, or from the record of a hand
that is over, which holds no other cards either: an opponent's hidden cards have no way out.
"""

from collections.abc import Sequence
from typing import Any

from experiments.poker.advice import Advice, chances
from experiments.poker.play_game import PlayedTable, final_pot, shown_cards
from experiments.poker.play_text import may, what_happened
from lqlm.poker.arena.actions import pot_total
from lqlm.poker.arena.observation import Observation
from lqlm.poker.cards import DECK
from lqlm.poker.facts import STREETS, position_of
from lqlm.poker.record import Hand, collected
from lqlm.poker.replay import outcome

PRESETS = (("1/3 pot", 1 / 3), ("1/2 pot", 0.5), ("2/3 pot", 2 / 3), ("Pot", 1.0))


def state_json(table: PlayedTable) -> dict[str, Any]:
    """A table for the page; amounts in big blinds."""
    both: dict[str, Any] = {"hand": table.number, "won": table.won / table.rules.big, "hands": len(table.hands)}
    both |= {"game": table.settings.game, "log": [line.strip() for line in what_happened(table)]}
    if table.seen is not None:
        return both | _playing(table, table.seen)
    assert table.over is not None
    return both | _over(table, table.over.hand, table.over.chips)


def _playing(table: PlayedTable, seen: Observation) -> dict[str, Any]:
    big = seen.opening.big_blind
    seats = [
        _seat(table, seat, list(seen.stacks), seen.stacks[seat] / big, seen.bets[seat] / big, seat not in seen.live)
        | {"cards": _texts(seen.cards) if seat == 1 else None, "turn": seat == 1, "won": 0}
        for seat in sorted(seen.stacks)
    ]
    return {
        "over": False,
        "index": seen.index,
        "street": STREETS[seen.street],
        "board": _texts(seen.board),
        "pot": seen.pot / big,
        "seats": seats,
        "legal": _legal(seen, big),
        "may": may(seen),
    }


def _seat(
    table: PlayedTable, seat: int, order: Sequence[int], stack: float, bet: float, folded: bool
) -> dict[str, Any]:
    place = position_of(order.index(seat), len(order))
    name = table.names[seat]
    return {"seat": seat, "name": name, "place": place, "stack": stack, "bet": bet, "folded": folded, "you": seat == 1}


def _legal(seen: Observation, big: int) -> dict[str, Any]:
    legal = seen.legal
    found: dict[str, Any] = {"call": legal.call / big, "raise": None}
    if legal.most:
        last = "All-in" if seen.bets[seen.seat] + seen.stacks[seen.seat] == legal.most else "Most"
        sizes = [(name, pot_total(seen, part)) for name, part in PRESETS]
        inside = {total: name for name, total in sizes if legal.least < total < legal.most}
        named = {legal.least: "Least"} | inside | {legal.most: last}
        found["raise"] = {
            "word": "raise" if seen.bet else "bet",
            "least": legal.least / big,
            "most": legal.most / big,
            "presets": [{"label": named[total], "total": total / big} for total in sorted(named)],
        }
    return found


def _over(table: PlayedTable, hand: Hand, chips: int) -> dict[str, Any]:
    big, ended = hand.big_blind, outcome(hand)
    shown = shown_cards(hand) | {hole.seat: hole.cards for hole in hand.holes}
    taken = collected(hand)
    folded = {act.seat for acts in hand.streets for act in acts if act.kind.value == "folds"}
    order = list(ended.contributed)
    seats = [
        _seat(table, seat, order, ended.stacks[seat] / big, 0.0, seat in folded)
        | {"cards": _texts(shown[seat]) if seat in shown else None, "turn": False, "won": taken.get(seat, 0) / big}
        for seat in sorted(order)
    ]
    return {
        "over": True,
        "index": -1,
        "street": "the end",
        "board": _texts(hand.boards[0]),
        "pot": final_pot(hand) / big,
        "seats": seats,
        "legal": None,
        "result": chips / big,
    }


def _texts(cards: Sequence[int]) -> list[str]:
    return [DECK[card] for card in cards]


def advice_json(advice: Advice, big: int) -> dict[str, Any]:
    """Advice for the page; shares in 0..1, the value of a call in big blinds."""
    facts = advice.facts
    return {
        "model": chances(advice.acts, big),
        "equity": facts.equity,
        "margin": facts.margin,
        "against": facts.against,
        "needed": facts.needed,
        "call_value": None if advice.call_value is None else advice.call_value / big,
        "sentences": list(advice.sentences),
    }
