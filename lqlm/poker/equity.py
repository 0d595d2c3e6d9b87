"""Equity: the share of the pot that hands win on average, over every deal; `lqlm.poker.monte_carlo` draws deals.

Hold'em hands have two cards, Omaha hands four, five or six.  A tie is split evenly.  These functions check their input
and add up in integers, so that nothing is lost over any number of deals; the jitted functions below them are in
`lqlm.poker.showdown`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.poker.evaluator import check_cards
from lqlm.poker.omaha import OMAHA_HOLES
from lqlm.poker.showdown import (
    BOARD_SIZE,
    BOARDS_PER_CALL,
    MOST_PLAYERS,
    ROWS_PER_CALL,
    against_pairs,
    completions,
    runouts,
)
from lqlm.poker.tables import DECK_SIZE, PAIR_COUNT, pairs
from lqlm.types import Array

POT = math.lcm(*range(1, MOST_PLAYERS + 1))
"""Units of a pot, so that every split of it is an integer: 2520."""


@dataclasses.dataclass(frozen=True)
class Equity:
    """The equity of every player, in the order in which they were given.

    Attributes:
        equity: [players], the mean share of the pot; they sum to 1.
        standard_error: [players], of the equity; 0 when it is exact.
        win: [players], the probability to win alone.
        tie: [players], the probability to share the pot.
        deals: deals counted.
    """

    equity: np.ndarray
    standard_error: np.ndarray
    win: np.ndarray
    tie: np.ndarray
    deals: int


def counted(winners: Array | np.ndarray, players: int) -> np.ndarray:
    """How often each set of players won together.

    Args:
        winners: int16 [deals], `winner_bits`.
        players: 2 to 10.

    Returns:
        int64 [2^players]; the first are the deals that do not count.
    """
    return np.bincount(np.asarray(winners), minlength=1 << players)


def equity_of(counts: np.ndarray, exact: bool) -> Equity:
    """The share of the pot of every player, ``x = [p won] / winners``, over counted deals.

    Args:
        counts: int64 [2^players] from `counted`.
        exact: every deal is there; else the error is ``sqrt((mean x^2 - (mean x)^2) / (n - 1))``.
    """
    players, deals = len(counts).bit_length() - 1, int(counts[1:].sum())
    won = np.arange(len(counts)) >> np.arange(players)[:, None] & 1
    winners = won.sum(0)
    shares = won * (POT // np.maximum(winners, 1))
    mean = shares @ counts / (POT * deals)
    variance = np.maximum((shares / POT) ** 2 @ counts / deals - mean * mean, 0.0)
    error = np.zeros_like(mean) if exact else np.sqrt(variance / max(deals - 1, 1))
    return Equity(mean, error, won @ (counts * (winners == 1)) / deals, won @ (counts * (winners > 1)) / deals, deals)


def known_cards(hands: Sequence[Sequence[int]], board: Sequence[int], dead: Sequence[int]) -> np.ndarray:
    """Every card that is known, ascending, if they make a deal."""
    if len(board) not in (0, 3, 4, 5):
        raise UserError(f"the board: {len(board)} cards; a board has 0, 3, 4 or 5")
    sizes = sorted({len(hand) for hand in hands})
    if len(sizes) > 1 or (sizes and sizes[0] not in (2, *OMAHA_HOLES)):
        raise UserError(f"the hands: {sizes} cards; every hand has 2, or every one 4, 5 or 6")
    return np.sort(check_cards([*board, *dead, *(card for hand in hands for card in hand)], "the deal"))


def calls(rows: int, most: int) -> Iterator[np.ndarray]:
    """The first and last row of each call."""
    return (np.array([start, min(start + most, rows)], np.int32) for start in range(0, rows, most))


def exact_equity(hands: Sequence[Sequence[int]], board: Sequence[int] = (), dead: Sequence[int] = ()) -> Equity:
    """The equity of known hands over every completion of the board.

    Args:
        hands: 2 to 10 hands of two cards (hold'em) or of four, five or six (Omaha).
        board: 0, 3, 4 or 5 public cards.
        dead: other cards that cannot come.

    Returns:
        the equity, exact: heads-up before the flop it takes 1,712,304 boards.

    Raises:
        UserError: for cards that are no deal.

    >>> from lqlm.poker.cards import cards
    >>> found = exact_equity([cards("AsAh"), cards("KsKh")], cards("Kd 7c 2s 3h"))
    >>> print(found.deals, found.equity.round(4))
    44 [0.0455 0.9545]
    """
    if not 2 <= len(hands) <= MOST_PLAYERS:
        raise UserError(f"the hands: {len(hands)}; between 2 and {MOST_PLAYERS} players can be compared")
    gone, missing = known_cards(hands, board, dead), BOARD_SIZE - len(board)
    live, counts = DECK_SIZE - len(gone), np.zeros(1 << len(hands), np.int64)
    positions = jnp.asarray(completions(live, missing))
    given = np.asarray(hands, np.int32), np.asarray(board, np.int32), gone
    for rows in calls(math.comb(live, missing), ROWS_PER_CALL):
        winners = runouts(*given, positions, rows)
        counts += counted(np.asarray(winners)[: rows[1] - rows[0]], len(hands))
    return equity_of(counts, exact=True)


def pair_equities(hole: Sequence[int], board: Sequence[int] = (), dead: Sequence[int] = ()) -> np.ndarray:
    """The equity of one hold'em hand against each of the 1326 pairs, over every completion of the board.

    Args:
        hole: two cards.
        board: 0, 3, 4 or 5 public cards; without a flop it takes 2.8 billion showdowns.
        dead: other cards that cannot come.

    Returns:
        float64 [3, 1326]: probability to win, to tie, and 1 where the pair is possible, else 0.

    Raises:
        UserError: for cards that are no deal, and for a hand that has not two cards.
    """
    if len(hole) != 2:
        raise UserError(f"the hand: {len(hole)} cards; against a range of pairs it has 2")
    gone, missing = known_cards([hole], board, dead), BOARD_SIZE - len(board)
    live = DECK_SIZE - len(gone)
    positions = jnp.asarray(completions(live, missing))
    given = np.asarray(hole, np.int32), np.asarray(board, np.int32), gone
    found = np.zeros((2, PAIR_COUNT), np.int64)
    for rows in calls(math.comb(live, missing), BOARDS_PER_CALL):
        found += np.asarray(against_pairs(*given, positions, rows))
    return np.stack([*(found / math.comb(live - 2, missing)), ~np.isin(pairs(), gone).any(axis=1)])


def checked_weights(weights: np.ndarray, gone: Sequence[int] | np.ndarray) -> np.ndarray:
    """A range's weights without the pairs that hold a card that is gone.

    Raises:
        UserError: for weights that are no range, or when no pair is left.
    """
    given = np.asarray(weights, np.float64)
    if given.shape != (PAIR_COUNT,) or not np.isfinite(given).all() or (given < 0).any():
        raise UserError(f"a range: weights of shape {given.shape}; it is {PAIR_COUNT} finite numbers, none negative")
    left = np.where(np.isin(pairs(), np.asarray(gone)).any(axis=1), 0.0, given)
    if not left.any():
        raise UserError("a range: every hand in it holds a card that is known to be elsewhere; widen the range")
    return left


def range_equity(
    hole: Sequence[int], weights: np.ndarray, board: Sequence[int] = (), dead: Sequence[int] = ()
) -> Equity:
    """The equity of one hold'em hand against one range, over every hand of it and every completion of the board.

    Args:
        hole: two cards.
        weights: [1326], as `lqlm.poker.ranges` gives them; all ones for a random hand.
        board: 0, 3, 4 or 5 public cards; without a flop it takes 2.8 billion showdowns.
        dead: other cards that cannot come.

    Returns:
        the equity of the hand and of the range, exact.

    Raises:
        UserError: for cards that are no deal, and for weights that are no range.

    >>> from lqlm.poker.cards import cards
    >>> range_equity(cards("AsAh"), np.ones(1326), cards("Ad 7c 2s 3h 9d")).win.round(3)
    array([0.984, 0.016])
    """
    weight = checked_weights(weights, known_cards([hole], board, dead))
    win, tie, possible = pair_equities(hole, board, dead)
    won, tied = (float(np.sum(weight * p) / np.sum(weight)) for p in (win, tie))
    lost = 1 - won - tied
    equity = np.array([won + tied / 2, lost + tied / 2])
    deals = int(possible[weight > 0].sum()) * math.comb(DECK_SIZE - 4 - len(board) - len(dead), BOARD_SIZE - len(board))
    return Equity(equity, np.zeros(2), np.array([won, lost]), np.array([tied, tied]), deals)
