"""How lucky a hand was: what the cards gave each player beyond what was to be expected when they were dealt.

Every term is the difference of a value after a chance event and its mean before it, so its mean is 0 whatever the
players do: to subtract it leaves the expected winnings as they are (Burch et al., "AIVAT", arXiv 1612.06915, with
chance nodes only).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lqlm.poker.arena.showdowns import BOARD, boards_to_come, expected_chips, expected_shares, winners
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
    played, order, holes = outcome(hand), in_hand(hand), known_cards(hand)
    last = max([street for street, acts in enumerate(hand.streets) if acts], default=0)
    return Luck(
        _all_in(hand, played, order, holes, last, rng, samples),
        _terms(hand, played, order, holes, last, rng, samples),
    )


def _all_in(
    hand: Hand,
    played: Outcome,
    order: list[int],
    holes: dict[int, tuple[int, ...]],
    last: int,
    rng: np.random.Generator,
    samples: int,
) -> np.ndarray:
    luck = np.zeros(len(order))
    if last == len(hand.streets) - 1 or len(hand.boards[0]) < BOARD:
        return luck
    before = _boards(hand, holes, last, rng, samples)
    shown = np.asarray([hand.boards[0]])
    for pot in played.pots:
        able = [seat for seat in order if seat in pot.seats]
        held, at = [holes[seat] for seat in able], [order.index(seat) for seat in able]
        happened = expected_chips(winners(held, shown), pot.amount)
        luck[at] += happened - expected_chips(winners(held, before), pot.amount)
    return luck


def _boards(
    hand: Hand, holes: dict[int, tuple[int, ...]], street: int, rng: np.random.Generator, samples: int
) -> np.ndarray:
    """The boards that could come on a street, to one who sees all hole cards, folded ones too."""
    board = hand.boards[0][: BOARD_CARDS[street]]
    return boards_to_come(board, [*board, *(card for held in holes.values() for card in held)], rng, samples)


def _terms(
    hand: Hand,
    played: Outcome,
    order: list[int],
    holes: dict[int, tuple[int, ...]],
    last: int,
    rng: np.random.Generator,
    samples: int,
) -> np.ndarray:
    terms = np.zeros((len(TERMS), len(order)))
    boards = [_boards(hand, holes, street, rng, samples) for street in range(last + 1)]
    everyone = winners([holes[seat] for seat in order], boards[0])
    terms[0] = expected_shares(everyone, hand.big_blind * len(order)) - hand.big_blind
    for street in range(1, last + 1):
        live = _live(hand, order, street)
        held, at = [holes[seat] for seat in live], [order.index(seat) for seat in live]
        pot = played.street_pots[street - 1]
        after, before = (expected_shares(winners(held, boards[s]), pot) for s in (street, street - 1))
        terms[street, at] = after - before
    return terms


def _live(hand: Hand, order: Sequence[int], street: int) -> list[int]:
    """Who has not folded before a street is dealt."""
    folded = {act.seat for acts in hand.streets[:street] for act in acts if act.kind is ActKind.FOLD}
    return [seat for seat in order if seat not in folded]
