"""Cards drawn without replacement as pure functions of random bits, and pairs dealt by weight.

No deck is held and nothing is sorted: a card is a number below the count of cards left, moved past those that are gone.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lqlm.poker.tables import pairs
from lqlm.types import Array

CARDS_PER_WORD = 2
"""Two draws from one word of 32 bits: some of the 52 * 51 outcomes come up more often by 1 in 1.6 million."""


def bounded(bits: Array, bound: int) -> tuple[Array, Array]:
    """A number below `bound`, ``floor(u n / 2^32)``, and the bits that are left, ``u n mod 2^32``.

    Brackett-Rozinsky and Lemire, "Batched ranged random integer generation", arXiv 2408.06213.

    Args:
        bits: uint32 [...], uniform.
        bound: n, at most 2^16.

    Returns:
        int32 [...] in 0..n - 1, and uint32 [...], again nearly uniform, for the next number.
    """
    n = jnp.uint32(bound)
    high, low = (bits >> 16) * n, (bits & jnp.uint32(0xFFFF)) * n
    return ((high + (low >> 16)) >> 16).astype(jnp.int32), bits * n


def insert(taken: Sequence[Array], new: Array) -> list[Array]:
    """Put a number in its place in ascending ones, ``t'_i = min(t_i, max(t_{i-1}, new))``.

    Args:
        taken: int32 [...] each, ascending.
        new: int32 [...].
    """
    above = [new, *(jnp.maximum(other, new) for other in taken)]
    return [*(jnp.minimum(other, low) for other, low in zip(taken, above)), above[-1]]


def card_at(positions: Array, taken: Sequence[Array]) -> Array:
    """The cards at positions of the deck without those taken, ``c = p + sum_j [p >= t_j - j]``.

    Args:
        positions: integers [...], below 52 - n.
        taken: n integers, or arrays of integers [...], ascending.
    """
    at = positions.astype(jnp.int32)
    return at + sum([(at >= other - j).astype(jnp.int32) for j, other in enumerate(taken)], start=jnp.int32(0))


def position_of(cards: Array, taken: Sequence[Array]) -> Array:
    """Where cards stand in the deck without those taken, none of them: the inverse of `card_at`."""
    return cards - sum([(other < cards).astype(jnp.int32) for other in taken], start=jnp.int32(0))


def words_for(cards: int) -> int:
    """How many words of random bits `draw` takes for so many cards."""
    return -(-cards // CARDS_PER_WORD)


def draw(bits: Array, live: int, count: int) -> list[Array]:
    """Draw positions of a deck without replacement, by the shuffle of Fisher and Yates.

    A draw picks one of the slots that are left, and the last of these moves into it.  The deck is not held: what lies
    in a slot is found by going through the moves so far, ``v = t_j where slot = s_j``, the last one counting.

    Args:
        bits: uint32 [words_for(count), N], uniform.
        live: size of the deck.
        count: how many to draw.

    Returns:
        int32 [N] each, in the order of the draw.
    """
    drawn: list[Array] = []
    moves: list[tuple[Array, Array]] = []
    for i in range(count):
        if i % CARDS_PER_WORD == 0:
            word = bits[i // CARDS_PER_WORD]
        slot, word = bounded(word, live - i)
        value, last = slot, jnp.full_like(slot, live - 1 - i)
        moved = last
        for other, put in moves:
            value, moved = jnp.where(slot == other, put, value), jnp.where(last == other, put, moved)
        drawn.append(value)
        moves.append((slot, moved))
    return drawn


def allotted(weights: np.ndarray, rows: int, offset: float) -> np.ndarray:
    """Which pair of a range is dealt in each of some deals: every pair as often as its weight says, up to one deal.

    Systematic sampling: ``n_i = floor(N c_i + u) - floor(N c_{i-1} + u)`` with ``c_i = sum_{j <= i} w_j / sum_j w_j``,
    so that over u the mean of n_i is ``N w_i / sum_j w_j`` exactly.  It takes no draw and no search for a deal, and
    what it estimates varies no more than with pairs that are drawn one by one.

    Args:
        weights: [1326], not negative, not all zero.
        rows: deals, N.
        offset: u, uniform in [0, 1).

    Returns:
        int16 [N], pairs in the order of their numbers, each ``high << 6 | low``; `pair_of` parts them.
    """
    upto = np.cumsum(weights, dtype=np.float64)
    ends = np.minimum(np.floor(upto * (rows / upto[-1]) + offset).astype(np.int64), rows)
    ends[upto == upto[-1]] = rows  # rounding must neither lose the last deal nor find one more
    return np.repeat((pairs()[:, 0] << 6 | pairs()[:, 1]).astype(np.int16), np.diff(ends, prepend=0))


def deal_ranges(ranges: Sequence[np.ndarray], rows: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """The pairs that players with ranges hold in each of some deals, independent of each other.

    Each range's `allotted` pairs come in an order of their own, but for the first, which the others are shuffled
    against.

    Args:
        ranges: weights [1326] each.
        rows: deals, N.
        width: at least N; the columns from N on are no deals.
        generator: decides offsets and orders.

    Returns:
        int16 [ranges, width].

    >>> from lqlm.poker.ranges import parse_range
    >>> deal_ranges([parse_range("AsAh")], 2, 3, np.random.default_rng(0)).tolist() == [[51 << 6 | 50] * 2 + [0]]
    True
    """
    dealt = np.zeros((len(ranges), width), np.int16)
    for row, weights in zip(dealt, ranges):
        row[:rows] = allotted(weights, rows, generator.random())
    for row in dealt[1:]:
        generator.shuffle(row[:rows])
    return dealt


def pair_of(packed: Array) -> tuple[Array, Array]:
    """The higher and the lower card, int32 [...] each, of pairs written ``high << 6 | low``."""
    both = packed.astype(jnp.int32)
    return both >> 6, both & 63
