"""Strength of poker hands as pure functions of integer cards: no table, no loop, no gather.

A card is ``4 * rank + suit``: rank 0..12 for 2..A, suit 0..3 for clubs, diamonds, hearts, spades.  A strength is an
int32; HIGHER IS BETTER, and equal strengths split the pot.  It is ``category << 26 | high << 13 | low`` (`tables`);
`class_rank` gives the numbers 1 (royal flush) .. 7462 of phevaluator and others, where lower is better.

A hand is first turned into four sets of ranks, one for each suit.  Sets of several cards are joined by ``|``, so a
board is turned once for all players.  Everything after that is and, or, shift and count on int32 lanes: about 100
operations for seven cards, 260 for Omaha.  At 8 lanes of 256 bits and two operations a cycle that is 6 cycles for a
hand, and its 16 bytes of sets and 4 of strength are of the order of what a core reads from memory in that time: there
is little left for a table to save, and a table's gathers are scalar loads.

Cards out of 0..51 and cards given twice are not looked for here: their strength is undefined.  `check_cards` looks.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.poker.tables import CLASS_COUNT, DECK_SIZE, RANK_COUNT, class_strengths
from lqlm.types import Array

Sets = tuple[Array, Array, Array, Array]
"""The ranks of a hand's clubs, diamonds, hearts and spades, as bits of int32."""


def check_cards(cards: Sequence[int] | np.ndarray, where: str) -> np.ndarray:
    """These cards as int32, if they are cards and each is there once.

    Args:
        cards: one hand, or one deal, of any shape.
        where: what they are, for the message.

    Returns:
        int32, the shape of cards.

    Raises:
        UserError: when one is not an integer in 0..51, or is there twice.

    >>> check_cards([0, 0], "the board")
    Traceback (most recent call last):
    lqlm.errors.UserError: the board: card 0 is there twice; every card of a deal must be another one
    """
    given = np.asarray(cards)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise UserError(f"{where}: cards are integers 0..51 (4 * rank + suit), not {given.dtype}")
    found, counts = np.unique(given, return_counts=True)
    if found.size and not (found[0] >= 0 and found[-1] < DECK_SIZE):
        wrong = found[0] if found[0] < 0 else found[-1]
        raise UserError(f"{where}: {wrong} is no card; cards are 4 * rank + suit, 0..51")
    if (counts > 1).any():
        twice = found[counts > 1][0]
        raise UserError(f"{where}: card {twice} is there twice; every card of a deal must be another one")
    return given.astype(np.int32)


def suit_sets(cards: Sequence[Array]) -> Sets:
    """The ranks of each suit, ``set_s = or_i [suit_i = s] 2^rank_i``.

    Args:
        cards: one array of any integer type for each card of the hand, all of one shape; none for an empty board.

    Returns:
        four int32 arrays of that shape.
    """
    sets = [jnp.int32(0)] * 4
    for card in cards:
        number = card.astype(jnp.int32)
        bit, suit = jnp.left_shift(jnp.int32(1), number >> 2), number & 3
        sets = [ranks | jnp.where(suit == s, bit, 0) for s, ranks in enumerate(sets)]
    return sets[0], sets[1], sets[2], sets[3]


def join(first: Sets, second: Sets) -> Sets:
    """The sets of two hands together."""
    (a, b, c, d), (e, f, g, h) = first, second
    return a | e, b | f, c | g, d | h


def top(ranks: Array) -> Array:
    """The highest rank of a set, ``2^floor(log2 x)``; the empty set of the empty one."""
    return jnp.where(ranks == 0, 0, jnp.left_shift(jnp.int32(1), 31 - jax.lax.clz(ranks)))


def top_two(ranks: Array) -> Array:
    """The two highest ranks of a set, or fewer where it has fewer."""
    first = top(ranks)
    return first | top(ranks ^ first)


def drop_lowest(ranks: Array, count: int) -> Array:
    """A set without its `count` lowest ranks, ``x & (x - 1)`` again and again."""
    for _ in range(count):
        ranks = ranks & (ranks - 1)
    return ranks


def highest(ranks: Array, count: int, most: int) -> Array:
    """The `count` highest ranks of a set that holds between `count` and `most` of them."""
    size = jax.lax.population_count(ranks)
    for too_many in range(count + 1, most + 1):
        ranks = jnp.where(size >= too_many, ranks & (ranks - 1), ranks)
    return ranks


def at_least(sets: Sets) -> tuple[Array, Array, Array, Array]:
    """The ranks of which a hand has at least one, two, three and four cards."""
    a, b, c, d = sets
    some, pair, others, other_pair = a | b, a & b, c | d, c & d
    two = pair | other_pair | (some & others)
    return some | others, two, (pair & others) | (some & other_pair), pair & other_pair


def with_low_ace(ranks: Array) -> Array:
    """A set with the ace also below the deuce: bit 0 the ace, bit r + 1 rank r."""
    return ranks << 1 | ranks >> 12


def straight_tops(ranks: Array) -> Array:
    """The top ranks of the straights in a set of ranks.

    >>> bin(straight_tops(jnp.int32(0b1000000011111)))  # A 2 3 4 5 6: straights to the five and to the six
    '0b11000'
    """
    extended = with_low_ace(ranks)
    runs = extended & extended >> 1
    return (runs & runs >> 2 & extended >> 4) << 3


def packed(category: int, high: Array, low: Array | int = 0) -> Array:
    """``category << 26 | high << 13 | low``."""
    return jnp.int32(category << 26) | high << RANK_COUNT | low


def flush_suit(sets: Sets, needed: int) -> Array:
    """The set of the suit that has `needed` ranks or more, empty where none has; at most one may have."""
    flush = jnp.zeros_like(sets[0])
    for ranks in sets:
        flush |= jnp.where(jax.lax.population_count(ranks) >= needed, ranks, 0)
    return flush


def strength_of_sets(sets: Sets, count: int) -> Array:
    """The best five cards of a hand given by its four sets.

    With n cards, a hand of at most one pair, or of three of a kind, has n - 5 ranks too many whatever it is, so that
    its kickers are found by dropping as many.  A better category overwrites a worse one.

    Args:
        sets: four int32 arrays of any one shape.
        count: cards of a hand, n: 5, 6 or 7.

    Returns:
        int32 of that shape; higher is better.
    """
    ones, twos, threes, fours = at_least(sets)
    flush = flush_suit(sets, 5)
    pair, trips, straight = top(twos), top(threes), straight_tops(ones)
    second = top(twos ^ pair)
    filler = top(twos & ~trips)
    straight_flush = straight_tops(flush)
    best = drop_lowest(ones, count - 5)
    for holds, value in (
        (twos, packed(1, pair, drop_lowest(ones ^ pair, count - 5))),
        (second, packed(2, pair | second, top(ones ^ pair ^ second))),
        (threes, packed(3, trips, drop_lowest(ones ^ trips, count - 5))),
        (straight, packed(4, top(straight))),
        (flush, packed(5, jnp.zeros_like(flush), highest(flush, 5, count))),
        (jnp.where(threes == 0, 0, filler), packed(6, trips, filler)),
        (fours, packed(7, fours, top(ones ^ fours))),
        (straight_flush, packed(8, top(straight_flush))),
    ):
        best = jnp.where(holds == 0, best, value)
    return best


@jax.jit
def strength(cards: Array) -> Array:
    """The strength of the best five of five, six or seven cards.

    Args:
        cards: [..., 5 | 6 | 7], any integer type, ``4 * rank + suit``.

    Returns:
        int32 [...]; higher is better, equal splits the pot.

    >>> from lqlm.poker.cards import cards
    >>> aces, kings = (strength(jnp.array(cards(hole + "2c 7d 9h Jc 3s"))) for hole in ("AsAh", "KsKh"))
    >>> bool(aces > kings), int(class_rank(aces))
    (True, 3435)
    """
    count = cards.shape[-1]
    if count not in (5, 6, 7):
        raise ValueError(f"a hand has 5, 6 or 7 cards in its last axis, not {count}")
    return strength_of_sets(suit_sets([cards[..., i] for i in range(count)]), count)


def category(strengths: Array) -> Array:
    """The category of strengths, ``strength >> 26``: 0 for a high card .. 8 for a straight flush."""
    return strengths >> 2 * RANK_COUNT


@jax.jit
def class_rank(strengths: Array) -> Array:
    """The number of a strength's class as phevaluator gives it: 1 is a royal flush, 7462 is 7 5 4 3 2; lower is better.

    Args:
        strengths: int32 [...] from this module.

    Returns:
        int32 [...], in 1..7462.
    """
    below = jnp.searchsorted(jnp.asarray(class_strengths()), strengths, side="left")
    return CLASS_COUNT - below.astype(jnp.int32)
