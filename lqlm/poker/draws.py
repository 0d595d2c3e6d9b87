"""Draws and outs of a hold'em hand, by trying every card that may come, and pot odds.

An out is a card that lifts the hand to a better category, unless the board does it alone: a card that lifts the board
too counts only where it makes a straight or better that the board has not.  A draw is a category that one card makes.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.poker.cards import CATEGORIES, best_category
from lqlm.poker.evaluator import category, check_cards, straight_tops, strength, top
from lqlm.poker.tables import DECK_SIZE, RANK_COUNT
from lqlm.types import Array

STRAIGHT, FLUSH = 4, 5


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the next card can do for a hand.

    Attributes:
        outs: for each category that the next card can lift the hand to, the cards that do.
        names: among "flush draw", "open-ended straight draw" (two ranks or more complete it, a double gutshot too),
            "gutshot" (one rank), "backdoor flush draw" (on the flop, two cards missing) and "overcards" (no pair, both
            cards above the board).
    """

    outs: dict[str, tuple[int, ...]]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many different cards improve the hand."""
        return sum(len(found) for found in self.outs.values())


@jax.jit
def next_categories(cards: Array) -> Array:
    """The category after each of the 52 cards.

    Args:
        cards: int32 [4 | 5 | 6].

    Returns:
        int32 [52]; without meaning for a card that is gone.
    """
    new = jnp.arange(DECK_SIZE, dtype=jnp.int32)[:, None]
    return category(strength(jnp.concatenate([jnp.broadcast_to(cards, (DECK_SIZE, len(cards))), new], axis=1)))


def find_draws(hole: Sequence[int], board: Sequence[int]) -> Draws:
    """The outs and draws of a hold'em hand on a flop or a turn.

    Args:
        hole: two cards.
        board: three or four cards.

    Returns:
        what the next card can do.

    Raises:
        UserError: for cards that are no such hand.

    >>> from lqlm.poker.cards import cards
    >>> found = find_draws(cards("Ah Kh"), cards("Qh 7h 2c"))
    >>> found.names, len(found.outs["flush"]), len(found.outs["pair"])
    (('flush draw', 'overcards'), 9, 6)
    """
    if len(hole) != 2 or len(board) not in (3, 4):
        raise UserError(f"draws: {len(hole)} and {len(board)} cards; they are found for 2 on a board of 3 or 4")
    own, shared = np.split(check_cards([*hole, *board], "the hand"), [2])
    now = int(category(strength(jnp.concatenate([own, shared]))))
    after = np.asarray(next_categories(np.concatenate([own, shared])))
    if len(board) == 3:
        alone = np.array([best_category((), (*map(int, shared), card)) for card in range(DECK_SIZE)])
    else:
        alone = np.asarray(next_categories(shared))
    live = np.setdiff1d(np.arange(DECK_SIZE), np.concatenate([own, shared]))
    lifted = alone > best_category((), tuple(map(int, shared)))
    own_work = (after > np.maximum(now, alone)) & ((after >= STRAIGHT) | ~lifted)
    better = [int(card) for card in live if own_work[card]]
    outs = {CATEGORIES[c]: tuple(x for x in better if after[x] == c) for c in sorted({int(after[x]) for x in better})}
    return Draws(outs, _names(own, shared, now))


def _straight_ranks(own: np.ndarray, board: np.ndarray) -> int:
    """How many ranks would complete a straight that is better than the board's."""
    shared = functools.reduce(int.__or__, (1 << int(card) // 4 for card in board))
    whole = functools.reduce(int.__or__, (1 << int(card) // 4 for card in own), shared)
    ranks = 1 << np.arange(RANK_COUNT, dtype=np.int32)
    new = np.asarray(top(straight_tops(jnp.asarray(ranks | whole))))
    return int(np.sum(new > np.asarray(top(straight_tops(jnp.asarray(ranks | shared))))))


def _names(own: np.ndarray, board: np.ndarray, now: int) -> tuple[str, ...]:
    """The names of the draws of a hand that is in category `now`."""
    suits, held = (np.bincount(cards % 4, minlength=4) for cards in (np.append(own, board), own))
    ranks = _straight_ranks(own, board) if now < STRAIGHT else 0
    found = {
        "flush draw": now < FLUSH and bool(((held > 0) & (suits == 4)).any()),
        "open-ended straight draw": ranks >= 2,
        "gutshot": ranks == 1,
        "backdoor flush draw": now < FLUSH and len(board) == 3 and bool(((held > 0) & (suits == 3)).any()),
        "overcards": now == 0 and int(own.min()) // 4 > int(board.max()) // 4,
    }
    return tuple(name for name, holds in found.items() if holds)


def pot_odds(to_call: float, pot: float) -> float:
    """The equity at which a call breaks even, ``c / (c + p)``.

    Args:
        to_call: what the call costs, in any unit.
        pot: what there is to win, the bet to be called included.

    Raises:
        UserError: unless both are not negative and the call costs something or the pot holds something.

    >>> pot_odds(50, 150)
    0.25
    """
    if min(to_call, pot) < 0 or to_call + pot <= 0:
        raise UserError(f"pot odds: to call {to_call}, pot {pot}; neither is negative, and one is positive")
    return to_call / (to_call + pot)
