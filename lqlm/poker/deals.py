"""Cards drawn without replacement, and pairs drawn by weight, as pure functions of random bits.

No deck is held and nothing is sorted: a card is a number below the count of cards left, moved past those that are gone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.poker.tables import PAIR_COUNT, pairs
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
        # A kernel for each card: fused, every card would be computed again for each one after it.
        value, slot, moved = jax.lax.optimization_barrier((value, slot, moved))
        drawn.append(value)
        moves.append((slot, moved))
    return drawn


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables to draw an index in proportion to its weight with one comparison.

    Vose, "A linear algorithm for generating random numbers with a given distribution" (1991): index i stays with
    probability ``keep_i`` and else becomes ``other_i``.

    Args:
        weights: [1326], not negative, not all zero.

    Returns:
        keep float32 [1326], other int32 [1326].
    """
    share = np.asarray(weights, np.float64) * (len(weights) / np.sum(weights, dtype=np.float64))
    other = np.arange(len(weights), dtype=np.int32)
    small = [int(i) for i in np.flatnonzero(share < 1)]
    large = [int(i) for i in np.flatnonzero(share >= 1)]
    while small and large:
        less, more = small.pop(), large[-1]
        other[less] = more
        share[more] -= 1 - share[less]
        if share[more] < 1:
            small.append(large.pop())
    # What rounding leaves over stays: a weight of zero is never left over, because its rest is 1.
    share[small + large] = 1.0
    return share.astype(np.float32), other


def draw_pair(bits: Array, keep: Array, other: Array) -> tuple[Array, Array]:
    """Draw a pair of cards by the tables of its weights.

    Args:
        bits: uint32 [2, ...], uniform.
        keep: float32 [1326], and
        other: int32 [1326], from `alias_table`.

    Returns:
        the higher and the lower card of the pair, int32 [...] each.
    """
    index, _ = bounded(bits[0], PAIR_COUNT)
    uniform = (bits[1] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    kept, instead = (table.at[index].get(mode="promise_in_bounds") for table in (keep, other))
    # Barriers, because a gather is slow, and XLA would repeat it for each reader.
    chosen = jax.lax.optimization_barrier(jnp.where(uniform < kept, index, instead))
    both = jnp.asarray(pairs()[:, 0] << 6 | pairs()[:, 1]).at[chosen].get(mode="promise_in_bounds")
    both = jax.lax.optimization_barrier(both)
    return both >> 6, both & 63
