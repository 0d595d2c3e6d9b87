"""Strengths and shares of hands on given boards, and the boards that may come: exact where few, else drawn."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from lqlm.poker.evaluator import strength
from lqlm.poker.omaha import omaha_strength

DECK_CARDS, BOARD = 52, 5
_ROWS = (512, 8192)
"""Rows of a call: few shapes, so that few programs are compiled."""


def strengths(holes: np.ndarray, boards: np.ndarray) -> np.ndarray:
    """Strengths of hands on full boards, higher is better.

    Args:
        holes: integers [rows, 2] (hold'em) or [rows, 4..6] (Omaha).
        boards: integers [rows, 5].

    Returns:
        int32 [rows].
    """
    found = [_block(holes[start : start + _ROWS[1]], boards[start : start + _ROWS[1]]) for start in _starts(len(holes))]
    return np.concatenate(found)


def _starts(rows: int) -> range:
    return range(0, rows, _ROWS[1])


def _block(holes: np.ndarray, boards: np.ndarray) -> np.ndarray:
    rows = len(holes)
    padding = ((0, next(size for size in _ROWS if size >= rows) - rows), (0, 0))
    own, shared = (np.pad(cards.astype(np.int32), padding) for cards in (holes, boards))
    found = strength(np.concatenate([own, shared], 1)) if own.shape[1] == 2 else omaha_strength(own, shared)
    return np.asarray(found)[:rows]


def live_cards(gone: Sequence[int]) -> np.ndarray:
    """The cards that are left, ascending."""
    left = np.ones(DECK_CARDS, bool)
    left[list(gone)] = False
    return np.flatnonzero(left)


def draws(rng: np.random.Generator, live: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Cards drawn without replacement in each row, [rows, count]."""
    order = np.argpartition(rng.random((rows, len(live))), count - 1, axis=1)[:, :count]
    return live[order]


def boards_to_come(
    board: Sequence[int], gone: Sequence[int], rng: np.random.Generator, samples: int, exact_up_to: int = 2000
) -> np.ndarray:
    """Full boards: all that are possible where they are few, else so many at random; each equally likely.

    Args:
        board: 0, 3, 4 or 5 public cards.
        gone: every card that cannot come, the board's among them.
        rng: for the draws.
        samples: boards to draw where all are too many.
        exact_up_to: how many are few.

    Returns:
        integers [rows, 5].
    """
    missing = BOARD - len(board)
    live = live_cards(gone)
    if not missing:
        return np.array([board])
    if math.comb(len(live), missing) <= exact_up_to:
        rest = live[np.array(list(itertools.combinations(range(len(live)), missing)))]
    else:
        rest = draws(rng, live, samples, missing)
    known = np.broadcast_to(np.asarray(board, rest.dtype), (len(rest), len(board)))
    return np.concatenate([known, rest], 1)


def winners(holes: Sequence[Sequence[int]], boards: np.ndarray) -> np.ndarray:
    """Strengths of several players on the same boards.

    Args:
        holes: each player's cards.
        boards: integers [rows, 5].

    Returns:
        int32 [rows, players].
    """
    return winners_of([(holes, boards)])[0]


def winners_of(tables: Sequence[tuple[Sequence[Sequence[int]], np.ndarray]]) -> list[np.ndarray]:
    """As :func:`winners` of each pair of holes and boards, all evaluated together."""
    sizes = [(len(boards), len(holes)) for holes, boards in tables]
    own = np.concatenate([np.tile(np.asarray(holes, np.int32), (len(boards), 1)) for holes, boards in tables])
    shared = np.concatenate([np.repeat(boards.astype(np.int32), len(holes), axis=0) for holes, boards in tables])
    parts = np.split(strengths(own, shared), np.cumsum([rows * players for rows, players in sizes])[:-1])
    return [part.reshape(size) for part, size in zip(parts, sizes)]


def expected_shares(table: np.ndarray, amount: int | float) -> np.ndarray:
    """What each player takes of a pot on average, ``E[amount 1{s_p = max s} / #{q: s_q = max s}]``.

    Args:
        table: strengths [rows, players] of those who may win it.
        amount: of the pot.

    Returns:
        float64 [players].
    """
    best = table == table.max(1, keepdims=True)
    return amount * (best / best.sum(1, keepdims=True)).mean(0)


def expected_chips(table: np.ndarray, amount: int) -> np.ndarray:
    """As :func:`expected_shares`, with whole chips as at the table: the first winner takes what does not divide."""
    best = table == table.max(1, keepdims=True)
    each, odd = np.divmod(amount, best.sum(1, keepdims=True))
    first = np.cumsum(best, 1) == 1
    return (best * (each + odd * first)).mean(0)


def equity_against_one(
    cards: Sequence[int], board: Sequence[int], rng: np.random.Generator, samples: int = 200
) -> float:
    """The share of a pot that cards win against one random hand, from random deals.

    Args:
        cards: own hole cards.
        board: public cards.
        rng: for the deals.
        samples: how many; the standard error is below ``1 / (2 sqrt(samples))``.
    """
    return equities_against_one([cards], [board], [rng], samples)[0]


def equities_against_one(
    cards: Sequence[Sequence[int]],
    boards: Sequence[Sequence[int]],
    rngs: Sequence[np.random.Generator],
    samples: int = 200,
) -> list[float]:
    """As :func:`equity_against_one` of each, with all hands evaluated together: the same numbers, many times faster.

    Args:
        cards: hole cards, as many for each.
        boards: public cards of each.
        rngs: one for each.
        samples: deals for each.
    """
    deals = [_deal_against_one(*each, samples) for each in zip(cards, boards, rngs, strict=True)]
    both = strengths(*(np.concatenate(part) for part in zip(*deals))).reshape(-1, 2, samples)
    return ((both[:, 0] > both[:, 1]) + 0.5 * (both[:, 0] == both[:, 1])).mean(1).tolist()


def _deal_against_one(
    cards: Sequence[int], board: Sequence[int], rng: np.random.Generator, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hole cards [2 samples, holes], own ones first, and the boards of both."""
    missing, count = BOARD - len(board), len(cards)
    drawn = draws(rng, live_cards([*cards, *board]), samples, missing + count)
    full = np.concatenate([np.tile(np.asarray(board, drawn.dtype), (samples, 1)), drawn[:, count:]], 1)
    own = np.tile(np.asarray(cards), (samples, 1))
    return np.concatenate([own, drawn[:, :count]]), np.concatenate([full, full])
