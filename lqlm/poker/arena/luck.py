"""How lucky a hand was: what the cards gave each player beyond what was to be expected when they were dealt.

Every term is the difference of a value after a chance event and its mean before it, so its mean is 0 whatever the
players do: to subtract it leaves the expected winnings as they are (Burch et al., "AIVAT", arXiv 1612.06915, with
chance nodes only).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lqlm.poker.arena.showdowns import BOARD, boards_to_come, expected_chips, expected_shares, winners_of
from lqlm.poker.record import ActKind, Hand, known_cards
from lqlm.poker.replay import BOARD_CARDS, Outcome, in_hand, outcome

TERMS = ("hole cards", "flop", "turn", "river")


@dataclasses.dataclass(frozen=True, slots=True)
class Luck:
    """Chips that each player got by luck, players from the left of the button on.

    Attributes:
        all_in: float64 [players], winnings less their mean over the boards that could come once nobody could bet.
        terms: float64 [4, players], the value of hole cards, flop, turn and river less its mean before: flop, turn and
            river while there was betting still to come.
    """

    all_in: np.ndarray
    terms: np.ndarray


def luck_of(hand: Hand, rng: np.random.Generator, samples: int = 256) -> Luck:
    """The luck in a hand of which every hole card is known.

    Args:
        hand: the record of a whole hand.
        rng: for boards that are too many to go through.
        samples: how many of these to draw; fewer make the terms noisier, not biased.
    """
    return lucks_of([hand], [rng], samples)[0]


def lucks_of(hands: Sequence[Hand], rngs: Sequence[np.random.Generator], samples: int = 256) -> list[Luck]:
    """As :func:`luck_of` of each hand: the same numbers, with all strengths looked up together.

    Hands of one duplicate deal hold the same cards, so that what their boards say is looked up once.
    """
    chances = [_chances(hand, rng, samples) for hand, rng in zip(hands, rngs, strict=True)]
    wanted = {_name(chance.holes, boards): (chance.holes, boards) for chance in chances for boards in chance.boards}
    tables = dict(zip(wanted, winners_of(list(wanted.values()))))
    return [_luck(chance, [tables[_name(chance.holes, boards)] for boards in chance.boards]) for chance in chances]


@dataclasses.dataclass(frozen=True, slots=True)
class _Chances:
    """The boards that could come in a hand.

    Attributes:
        hand: the record.
        played: what followed from it.
        order: seats from the left of the button on.
        holes: their cards.
        streets: on which there were decisions.
        boards: those that could come on each of these streets; then, where all cards came after that, those that
            could come once nobody could bet, and the one that came.
    """

    hand: Hand
    played: Outcome
    order: list[int]
    holes: tuple[tuple[int, ...], ...]
    streets: int
    boards: list[np.ndarray]


def _chances(hand: Hand, rng: np.random.Generator, samples: int) -> _Chances:
    order, known = in_hand(hand), known_cards(hand)
    holes = tuple(known[seat] for seat in order)
    last = max([street for street, acts in enumerate(hand.streets) if acts], default=0)
    ran_out = last < len(hand.streets) - 1 and len(hand.boards[0]) == BOARD
    before = [_boards(hand, holes, last, rng, samples)] if ran_out else []
    boards = [_boards(hand, holes, street, rng, samples) for street in range(last + 1)]
    ends = [*before, np.asarray([hand.boards[0]])] if ran_out else []
    return _Chances(hand, outcome(hand), order, holes, last + 1, boards + ends)


def _boards(
    hand: Hand, holes: Sequence[tuple[int, ...]], street: int, rng: np.random.Generator, samples: int
) -> np.ndarray:
    """The boards that could come on a street, to one who sees all hole cards, folded ones too."""
    board = hand.boards[0][: BOARD_CARDS[street]]
    return boards_to_come(board, [*board, *(card for held in holes for card in held)], rng, samples)


def _name(holes: tuple[tuple[int, ...], ...], boards: np.ndarray) -> tuple[tuple[tuple[int, ...], ...], bytes]:
    return holes, boards.tobytes()


def _luck(chance: _Chances, tables: list[np.ndarray]) -> Luck:
    return Luck(_all_in(chance, *tables[chance.streets :]), _terms(chance, tables[: chance.streets]))


def _all_in(chance: _Chances, before: np.ndarray | None = None, shown: np.ndarray | None = None) -> np.ndarray:
    luck = np.zeros(len(chance.order))
    if before is None or shown is None:
        return luck
    for pot in chance.played.pots:
        at = [i for i, seat in enumerate(chance.order) if seat in pot.seats]
        luck[at] += expected_chips(shown[:, at], pot.amount) - expected_chips(before[:, at], pot.amount)
    return luck


def _terms(chance: _Chances, tables: list[np.ndarray]) -> np.ndarray:
    terms = np.zeros((len(TERMS), len(chance.order)))
    blind = chance.hand.big_blind
    terms[0] = expected_shares(tables[0], blind * len(chance.order)) - blind
    for street in range(1, chance.streets):
        at, pot = _live(chance, street), chance.played.street_pots[street - 1]
        after, before = (expected_shares(tables[s][:, at], pot) for s in (street, street - 1))
        terms[street, at] = after - before
    return terms


def _live(chance: _Chances, street: int) -> list[int]:
    """Places in the order of those who have not folded before a street is dealt."""
    folded = {act.seat for acts in chance.hand.streets[:street] for act in acts if act.kind is ActKind.FOLD}
    return [i for i, seat in enumerate(chance.order) if seat not in folded]
