"""Deals played to the end: every completion of a board, or random deals, as pure jitted functions.

What comes out is who wins each deal, one bit for each player, and nothing is added up here: a block of deals is one
fused loop from the random bits, or the listed positions, to that one number.  Several results (shares, wins, ties)
would have XLA evaluate every hand again for each: its CPU compiler drops optimization barriers before it fuses.
Cards that are no deal are not looked for here: what they give is undefined (`lqlm.poker.equity` looks).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.poker.deals import card_at, draw, insert, pair_of, position_of, words_for
from lqlm.poker.evaluator import Sets, join, strength_of_sets, suit_sets
from lqlm.poker.omaha import omaha_strength_of_sets
from lqlm.poker.tables import DECK_SIZE, pairs
from lqlm.types import Array, Key

BOARD_SIZE = 5
MOST_PLAYERS = 10
ROWS_PER_CALL = 2**19
"""Deals in one call of a jitted function."""
ROWS_PER_BLOCK = 2**12
"""Deals of an enumeration that are held at a time: what a block works on stays in a core's cache."""
BOARDS_PER_CALL = 2**14
"""Boards in one call of `against_pairs`, whose two counts share 32 bits."""


def winner_bits(strengths: Sequence[Array]) -> Array:
    """Who has the best hand, ``sum_p 2^p [s_p = max_q s_q]``; several bits where the pot is shared.

    Args:
        strengths: int32 [...] of each player, at most 15.

    Returns:
        int16 [...].

    >>> int(winner_bits([jnp.int32(7), jnp.int32(3), jnp.int32(7)]))
    5
    """
    best = functools.reduce(jnp.maximum, strengths)
    return sum(((s == best).astype(jnp.int16) << p for p, s in enumerate(strengths)), start=jnp.int16(0))


def showdown(hole: Sequence[Array], board: Sets) -> Array:
    """The strength of a player's hand on full boards, by the rules of the number of hole cards.

    Args:
        hole: int32 [] or [N] for each hole card.
        board: the board's sets, [] or [N].

    Returns:
        int32 [N].
    """
    if len(hole) == 2:
        return strength_of_sets(join(suit_sets(hole), board), 7)
    return omaha_strength_of_sets(suit_sets(hole), board, len(hole), BOARD_SIZE)


@functools.lru_cache(maxsize=4)
def completions(live: int, count: int) -> np.ndarray:
    """Every choice of `count` of `live` positions, padded to whole blocks of rows.

    Returns:
        uint8 [count, rows], ascending down a column; the padding repeats position 0.
    """
    chosen = np.zeros((0, 1), np.uint8)
    for _ in range(count):
        first = chosen[-1].astype(np.int64) + 1 if len(chosen) else np.zeros(1, np.int64)
        more = live - first
        starts = np.repeat(np.cumsum(more) - more, more)
        last = np.arange(more.sum()) - starts + np.repeat(first, more)
        chosen = np.concatenate([np.repeat(chosen, more, axis=1), last[None].astype(np.uint8)])
    padding = -chosen.shape[1] % ROWS_PER_BLOCK
    return np.pad(chosen, ((0, 0), (0, padding)))


@jax.jit
def runouts(hands: Array, board: Array, dead: Array, positions: Array, rows: Array) -> Array:
    """Play known hands on listed completions of the board.

    Args:
        hands: int32 [players, holes].
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, hands and board among them, ascending.
        positions: uint8 [5 - len(board), N] from `completions`.
        rows: int32 [2], the first row to play, a multiple of the block, and the one after the last; at most 2^19.

    Returns:
        int16 [min(N, 2^19)], `winner_bits`; only the first ``rows[1] - rows[0]`` are asked for.
    """
    lanes, known = ROWS_PER_BLOCK, suit_sets(list(board))
    first = rows[0] // lanes

    def block(i: Array, won: Array) -> Array:
        some = jax.lax.dynamic_slice_in_dim(positions, (first + i) * lanes, lanes, axis=1)
        full = join(known, suit_sets(list(card_at(some, list(dead)))))
        return _put(won, winner_bits([showdown(list(hand), full) for hand in hands]), i, lanes)

    blocks = -(-(rows[1] - rows[0]) // lanes)
    return jax.lax.fori_loop(0, blocks, block, jnp.zeros(min(positions.shape[1], ROWS_PER_CALL), jnp.int16))


def _put(won: Array, block: Array, i: Array, lanes: int) -> Array:
    """Block i of all deals."""
    return jax.lax.dynamic_update_slice_in_dim(won, jnp.broadcast_to(block, (lanes,)), i * lanes, axis=0)


@jax.jit
def against_pairs(hole: Array, board: Array, dead: Array, positions: Array, rows: Array) -> tuple[Array, Array]:
    """Play one hold'em hand against each of the 1326 pairs on listed completions of the board.

    Args:
        hole: int32 [2].
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, the hole and the board among them, ascending.
        positions: uint8 [5 - len(board), N] from `completions`.
        rows: int32 [2], the first row to play and the one after the last; at most 2^14.

    Returns:
        int32 [1326] each: deals won and deals tied; 0 for a pair that holds a card that is gone.
    """
    known, own, both = suit_sets(list(dead)), suit_sets(list(hole)), jnp.asarray(pairs())
    theirs = suit_sets([both[:, 0], both[:, 1]])

    def one(i: Array, found: Array) -> Array:
        new = suit_sets([card_at(at, list(dead)) for at in positions[:, i]])
        full = join(new, suit_sets(list(board)))
        mine, other = strength_of_sets(join(own, full), 7), strength_of_sets(join(theirs, full), 7)
        apart = functools.reduce(jnp.bitwise_or, [a & b for a, b in zip(theirs, join(known, new))]) == 0
        result = jnp.where(mine > other, 1 << 16, jnp.where(mine == other, 1, 0))
        return found + jnp.where(apart, result, 0)

    found = jax.lax.fori_loop(rows[0], rows[1], one, jnp.zeros(len(both), jnp.int32))
    return found >> 16, found & 0xFFFF


@functools.partial(jax.jit, static_argnames=("random", "holes", "block"))
def simulate(
    key: Key,
    hands: Array,
    dealt: Array,
    board: Array,
    dead: Array,
    samples: Array,
    *,
    random: int,
    holes: int,
    block: int,
) -> Array:
    """Deal what is unknown at random and see who wins: known hands, then ranges, then random hands.

    Ranges are dealt independently, and a deal in which two want the same card does not count, so that the deals that
    count have probability in proportion to the product of the weights.

    Args:
        key: a key; block i of the deals is drawn from the key folded with i.
        hands: int32 [known, holes].
        dealt: int16 [ranges, N] from `deal_ranges`, N at least `samples` in whole blocks; no pair has a dead card.
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, hands and board among them, ascending.
        samples: int32 [], deals to draw.
        random: players of whom nothing is known.
        holes: hole cards of a player.
        block: deals held at a time.

    Returns:
        int16 [N], `winner_bits`; no bit where a deal does not count; only the first `samples` are asked for.
    """
    missing, gone_cards = BOARD_SIZE - len(board), list(dead)
    live, count = DECK_SIZE - len(dead), missing + random * holes

    def deals(i: Array, won: Array) -> Array:
        bits = jax.random.bits(jax.random.fold_in(key, i), (words_for(count), block), jnp.uint32)
        held = [pair_of(jax.lax.dynamic_slice_in_dim(some, i * block, block)) for some in dealt]
        taken, counts = _taken([position_of(card, gone_cards) for pair in held for card in pair])
        drawn = [card_at(card_at(at, taken), gone_cards) for at in draw(bits, live - 2 * len(held), count)]
        full = join(suit_sets(list(board)), suit_sets(drawn[:missing]))
        hole = [*(list(hand) for hand in hands), *held, *(drawn[j : j + holes] for j in range(missing, count, holes))]
        bits_won = winner_bits([showdown(own, full) for own in hole])
        return _put(won, jnp.where(counts, bits_won, jnp.int16(0)), i, block)

    return jax.lax.fori_loop(0, -(-samples // block), deals, jnp.zeros(dealt.shape[1], jnp.int16))


def _taken(places: Sequence[Array]) -> tuple[list[Array], Array]:
    """The positions that players with ranges hold, ascending, and whether no two are the same."""
    taken, apart = list[Array](), jnp.bool_(True)
    for place in places:
        apart = functools.reduce(jnp.bitwise_and, [place != other for other in taken], apart)
        taken = insert(taken, place)
    return taken, apart
