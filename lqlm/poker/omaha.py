"""Strength of Omaha hands: exactly two of four, five or six hole cards and exactly three of the board.

The 60 ways to choose (100 with five hole cards, 150 with six) are never walked through: each category has at most three
ways to be shared between hand and board, and the best of each way is found on the sets of ranks of `evaluator`.
"""

import jax
import jax.numpy as jnp

from lqlm.poker.evaluator import (
    Sets,
    at_least,
    drop_lowest,
    flush_suit,
    highest,
    packed,
    straight_tops,
    suit_sets,
    top,
    top_two,
    with_low_ace,
)
from lqlm.poker.tables import RANK_COUNT
from lqlm.types import Array

OMAHA_HOLES = (4, 5, 6)
RANK_MASK = (1 << RANK_COUNT) - 1


def windows(ranks: Array, needed: int) -> Array:
    """The runs of five ranks in which a set has at least `needed`, as `straight_tops` names them."""
    extended = with_low_ace(ranks)
    at_least_k = [jnp.zeros_like(ranks)] * needed
    for shift in range(5):
        carry = extended >> shift
        for k, seen in enumerate(at_least_k):
            at_least_k[k], carry = seen | carry, seen & carry
    return at_least_k[-1] << 3


def omaha_straights(hole: Array, board: Array) -> Array:
    """The top ranks of the straights of exactly two ranks of `hole` and three of `board`.

    A run of five is made so if both together cover it, the hole has two ranks in it and the board three: two that
    include all that the board lacks leave three that the board has.
    """
    return straight_tops(hole | board) & windows(hole, 2) & windows(board, 3) & RANK_MASK


def omaha_strength_of_sets(hole: Sets, board: Sets, holes: int, boards: int) -> Array:
    """The best five of exactly two hole cards and three of the board, from the sets of both.

    Every way to share a category between hand and board is a candidate, and the best candidate counts.  A candidate
    that stands where it should not (kickers that pair) is no better than the better category that then holds.

    Args:
        hole: four int32 arrays: the player's cards by suit.
        board: the board's.
        holes: hole cards of a player, 4, 5 or 6.
        boards: cards of the board, 3, 4 or 5.

    Returns:
        int32; higher is better.
    """
    best = jnp.zeros_like(hole[0])
    for holds, value in (
        *_omaha_high_and_pairs(hole, board, holes, boards),
        *_omaha_trips_and_more(hole, board, holes, boards),
        *_omaha_runs_and_flushes(hole, board, boards),
    ):
        best = jnp.maximum(best, jnp.where(holds == 0, 0, value))
    return best


def _omaha_high_and_pairs(hole: Sets, board: Sets, holes: int, boards: int) -> list[tuple[Array, Array]]:
    (h1, h2, _, _), (b1, b2, _, _) = at_least(hole), at_least(board)
    high, both = drop_lowest(h1, holes - 2), top(h1 & b1)
    pocket, paired, both_two = top(h2), top(b2), top_two(h1 & b1)
    mixed = top(h1 & b1 & ~paired)
    needs_two = both_two ^ both
    return [
        (h1, high | drop_lowest(b1, boards - 3)),
        (h2, packed(1, pocket, drop_lowest(b1, boards - 3))),
        (both, packed(1, both, top(h1 ^ both) | drop_lowest(b1 ^ both, boards - 3))),
        (b2, packed(1, paired, high | top(b1 ^ paired))),
        (jnp.where(h2 == 0, 0, b2), packed(2, pocket | paired, top(b1 & ~(pocket | paired)))),
        (needs_two, packed(2, both_two, top(b1 ^ both_two))),
        (jnp.where(b2 == 0, 0, mixed), packed(2, mixed | paired, top(h1 & ~(mixed | paired)))),
    ]


def _omaha_trips_and_more(hole: Sets, board: Sets, holes: int, boards: int) -> list[tuple[Array, Array]]:
    (h1, h2, _, _), (b1, b2, b3, _) = at_least(hole), at_least(board)
    pocket, one, single = top(h2 & b1), top(h1 & b2), h1 & b3
    under_pocket, under_one, under_board = top(b2 & ~pocket), top(h1 & b1 & ~one), top(h2 & ~b3)
    return [
        (pocket, packed(3, pocket, drop_lowest(b1 ^ pocket, boards - 3))),
        (one, packed(3, one, top(h1 ^ one) | top(b1 ^ one))),
        (b3, packed(3, b3, drop_lowest(h1, holes - 2))),
        (jnp.where(pocket == 0, 0, under_pocket), packed(6, pocket, under_pocket)),
        (jnp.where(one == 0, 0, under_one), packed(6, one, under_one)),
        (jnp.where(b3 == 0, 0, under_board), packed(6, b3, under_board)),
        (h2 & b2, packed(7, top(h2 & b2), top(b1 ^ top(h2 & b2)))),
        (single, packed(7, single, top(h1 ^ single))),
    ]


def _omaha_runs_and_flushes(hole: Sets, board: Sets, boards: int) -> list[tuple[Array, Array]]:
    pairs = list(zip(hole, board))
    fits = [jax.lax.population_count(h) >= 2 for h in hole]
    shared = flush_suit((board[0], board[1], board[2], board[3]), 3)
    own = jnp.zeros_like(hole[0])
    for fit, (h, b) in zip(fits, pairs):
        own |= jnp.where(fit & (jax.lax.population_count(b) >= 3), h, 0)
    straight = omaha_straights(at_least(hole)[0], at_least(board)[0])
    straight_flush = omaha_straights(own, shared)
    flush = top_two(own) | highest(shared, 3, boards)
    return [
        (straight, packed(4, top(straight))),
        (own, packed(5, jnp.zeros_like(own), flush)),
        (straight_flush, packed(8, top(straight_flush))),
    ]


@jax.jit
def omaha_strength(hole: Array, board: Array) -> Array:
    """The strength of the best five of exactly two hole cards and exactly three of the board.

    Args:
        hole: [..., 4 | 5 | 6], any integer type, ``4 * rank + suit``.
        board: [..., 3 | 4 | 5], the same leading axes.

    Returns:
        int32 [...]; higher is better, comparable with `strength`.

    >>> from lqlm.poker.cards import cards
    >>> from lqlm.poker.evaluator import class_rank, strength
    >>> quads = omaha_strength(jnp.array(cards("AsAhAdAc")), jnp.array(cards("2c 7d 9h Jc 3s")))
    >>> int(class_rank(quads)) == int(class_rank(strength(jnp.array(cards("AsAh 7d 9h Jc")))))  # two of them play
    True
    """
    holes, boards = hole.shape[-1], board.shape[-1]
    if holes not in OMAHA_HOLES or boards not in (3, 4, 5):
        raise ValueError(f"Omaha has 4, 5 or 6 hole cards and a board of 3, 4 or 5, not {holes} and {boards}")
    own = suit_sets([hole[..., i] for i in range(holes)])
    shared = suit_sets([board[..., i] for i in range(boards)])
    return omaha_strength_of_sets(own, shared, holes, boards)
