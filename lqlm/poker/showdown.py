"""Deals played to the end and counted: every completion of a board, or random deals, as pure jitted functions.

Rows of deals are worked through in blocks that stay in a core's cache.  In a block players and lanes are the axes, and
barriers part what makes a value from what reads it: without them XLA would evaluate each hand again for each reader.
Cards that are no deal are not looked for here: what they give is undefined (`lqlm.poker.equity` looks).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lqlm.poker.deals import card_at, draw, insert, pair_of, position_of, words_for
from lqlm.poker.evaluator import Sets, join, strength_of_sets, suit_sets
from lqlm.poker.omaha import omaha_strength_of_sets
from lqlm.poker.tables import DECK_SIZE, PAIR_COUNT, pairs
from lqlm.types import Array, Key

BOARD_SIZE = 5
MOST_PLAYERS = 10
POT = math.lcm(*range(1, MOST_PLAYERS + 1))
"""Units of a pot, so that every split of it is an integer: 2520."""
ROWS_PER_CALL = 2**19
"""Deals in one call of a jitted function: 2520 of them times this stays below 2^31."""
ROWS_PER_BLOCK = 2**12
"""Deals of an enumeration that are held at a time."""


@struct.dataclass
class Tally:
    """What players won, summed over deals.

    Attributes:
        shares: int32 [players], in units of a 2520th of a pot.
        squares: float32 [players], the sum of the squared shares of a pot.
        wins: int32 [players], deals won alone.
        ties: int32 [players], deals shared.
        deals: int32 [], deals that count.

    While sums are made every field has a last axis more: the lanes of a block.
    """

    shares: Array
    squares: Array
    wins: Array
    ties: Array
    deals: Array


def tally(total: Tally, strengths: Array, counts: Array) -> Tally:
    """Add a block of showdowns: ``share_p = [s_p = max_q s_q] / sum_q [s_q = max_r s_r]``.

    Every lane of a block is summed by itself, without a reduction over lanes until `reduced`.

    Args:
        total: the sums of each lane so far, `zero_tally`.
        strengths: int32 [players, N].
        counts: bool [N], the deals that count.
    """
    best = jax.lax.optimization_barrier(jnp.max(strengths, axis=0, keepdims=True))
    several = jnp.sum((strengths == best).astype(jnp.float32), axis=0, keepdims=True)
    several = jax.lax.optimization_barrier(jnp.where(counts[None], several, jnp.inf))
    won = strengths == best
    return Tally(
        total.shares + jnp.where(won, POT / several, 0.0).astype(jnp.int32),
        total.squares + jnp.where(won, 1.0 / (several * several), 0.0),
        total.wins + (won & (several == 1.0)).astype(jnp.int32),
        total.ties + (won & (several > 1.0) & (several < jnp.inf)).astype(jnp.int32),
        total.deals + counts.astype(jnp.int32),
    )


def zero_tally(players: int, lanes: int) -> Tally:
    """The sums of no deals, each lane by itself."""
    counts = jnp.zeros((players, lanes), jnp.int32)
    return Tally(counts, jnp.zeros((players, lanes), jnp.float32), counts, counts, jnp.zeros(lanes, jnp.int32))


def reduced(total: Tally) -> Tally:
    """The sums over all lanes."""
    return jax.tree.map(lambda lanes: jnp.sum(lanes, axis=-1), total)


def showdown(hole: Sequence[Array], board: Sets) -> Array:
    """The strength of every player on full boards, by the rules of the number of hole cards.

    Args:
        hole: int32 [players, N] for each hole card.
        board: the board's sets, [1, N].

    Returns:
        int32 [players, N].
    """
    own, shared = suit_sets(hole), jax.lax.optimization_barrier(board)
    if len(hole) == 2:
        return jax.lax.optimization_barrier(strength_of_sets(join(own, shared), 7))
    return jax.lax.optimization_barrier(omaha_strength_of_sets(own, shared, len(hole), BOARD_SIZE))


def board_sets(board: Array, drawn: Sequence[Array], lanes: int) -> Sets:
    """The sets of a board in part known and in part drawn, [1, lanes]."""
    sets = join(suit_sets(list(board)), suit_sets(list(drawn)))
    a, b, c, d = (jnp.broadcast_to(ranks, (1, lanes)) for ranks in sets)
    return a, b, c, d


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
def runouts(hands: Array, board: Array, dead: Array, positions: Array, rows: Array) -> Tally:
    """Play known hands on listed completions of the board.

    Args:
        hands: int32 [players, holes].
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, hands and board among them, ascending.
        positions: uint8 [5 - len(board), N] from `completions`.
        rows: int32 [2], the first row to play, a multiple of the block, and the one after the last; at most 2^19.
    """
    players, lanes = len(hands), ROWS_PER_BLOCK
    hole = [jnp.broadcast_to(card[:, None], (players, lanes)) for card in hands.T]

    def block(i: Array, total: Tally) -> Tally:
        some = jax.lax.dynamic_slice_in_dim(positions, i * lanes, lanes, axis=1)
        strengths = showdown(hole, board_sets(board, list(card_at(some, list(dead))), lanes))
        return tally(total, strengths, i * lanes + jnp.arange(lanes, dtype=jnp.int32) < rows[1])

    return reduced(jax.lax.fori_loop(rows[0] // lanes, -(-rows[1] // lanes), block, zero_tally(players, lanes)))


@jax.jit
def against_pairs(hole: Array, board: Array, dead: Array, positions: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Play one hold'em hand against each of the 1326 pairs on listed completions of the board.

    Args:
        hole: int32 [2].
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, the hole and the board among them, ascending.
        positions: uint8 [5 - len(board), N] from `completions`.
        rows: int32 [2], the first row to play and the one after the last.

    Returns:
        int32 [1326] each: deals won, deals tied, deals possible; none for a pair that holds a card that is gone.
    """
    known, own, both = suit_sets(list(dead)), suit_sets(list(hole)), jnp.asarray(pairs())
    theirs = suit_sets([both[:, 0], both[:, 1]])

    def one(i: Array, total: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        new = suit_sets([card_at(at, list(dead)) for at in positions[:, i]])
        full = join(new, suit_sets(list(board)))
        mine, other = strength_of_sets(join(own, full), 7), strength_of_sets(join(theirs, full), 7)
        apart = functools.reduce(jnp.bitwise_or, [a & b for a, b in zip(theirs, join(known, new))]) == 0
        found = (apart & (mine > other), apart & (mine == other), apart)
        return jax.tree.map(lambda whole, more: whole + more.astype(jnp.int32), total, found)

    nothing = jnp.zeros(PAIR_COUNT, jnp.int32)
    return jax.lax.fori_loop(rows[0], rows[1], one, (nothing, nothing, nothing))


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
) -> Tally:
    """Deal what is unknown at random and count who wins: known hands, then ranges, then random hands.

    Ranges are dealt independently, and a deal in which two want the same card does not count, so that the deals that
    count have probability in proportion to the product of the weights.

    Args:
        key: a key; block i of the deals is drawn from the key folded with i.
        hands: int32 [known, holes].
        dealt: int16 [ranges, N] from `deal_ranges`, N at least `samples` in whole blocks; no pair has a dead card.
        board: int32 [0..5].
        dead: int32 [n], every card that is gone, hands and board among them, ascending.
        samples: int32 [], deals to draw, at most 2^19.
        random: players of whom nothing is known.
        holes: hole cards of a player.
        block: deals held at a time.
    """
    known, ranges, missing = len(hands), len(dealt), BOARD_SIZE - len(board)
    live, cards = DECK_SIZE - len(dead), missing + random * holes
    dead_cards = list(dead)
    hands_N = jnp.broadcast_to(hands.T[:, :, None], (holes, known, block))

    def deals(i: Array, total: Tally) -> Tally:
        bits = jax.random.bits(jax.random.fold_in(key, i), (words_for(cards), block), jnp.uint32)
        bits = jax.lax.optimization_barrier(bits)
        counts = i * block + jnp.arange(block, dtype=jnp.int32) < samples
        gone: list[Array] = []
        hole = list(hands_N)
        for r in range(ranges):
            pair = pair_of(jax.lax.dynamic_slice_in_dim(dealt[r], i * block, block))
            hole = [jnp.concatenate([others, card[None]]) for others, card in zip(hole, pair)]
            places = jax.lax.optimization_barrier([position_of(card, dead_cards) for card in pair])
            counts = functools.reduce(jnp.bitwise_and, [at != other for at in places for other in gone], counts)
            gone = jax.lax.optimization_barrier(insert(insert(gone, places[0]), places[1]))
        drawn = draw(bits, live - 2 * ranges, cards)
        drawn = [card_at(card_at(at, gone), dead_cards) for at in drawn]
        if random:
            hole = [jnp.concatenate([hole[j], jnp.stack(drawn[missing + j :: holes])]) for j in range(holes)]
        if random or ranges:
            hole = jax.lax.optimization_barrier(hole)
        strengths = showdown(hole, board_sets(board, drawn[:missing], block))
        return tally(total, strengths, counts)

    return reduced(jax.lax.fori_loop(0, -(-samples // block), deals, zero_tally(known + ranges + random, block)))
