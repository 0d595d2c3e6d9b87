"""Equity: the share of the pot that hands win on average, exact where that is small and by Monte Carlo otherwise.

Hold'em hands have two cards, Omaha hands four, five or six.  A tie is split evenly.  These functions check their input
and add up in integers, so that nothing is lost over any number of deals; the jitted functions below them are in
`lqlm.poker.showdown`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.poker.deals import alias_table
from lqlm.poker.evaluator import check_cards
from lqlm.poker.omaha import OMAHA_HOLES
from lqlm.poker.showdown import (
    BOARD_SIZE,
    MOST_PLAYERS,
    POT,
    ROWS_PER_CALL,
    Tally,
    against_pairs,
    completions,
    runouts,
    simulate,
)
from lqlm.poker.tables import DECK_SIZE, PAIR_COUNT, pairs
from lqlm.types import Key


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


@dataclasses.dataclass(frozen=True)
class MonteCarloConfig:
    """How to simulate.

    Attributes:
        samples: deals to draw; those in which two ranges want the same card do not count.
        block: deals held at a time; a GPU wants 2^17.
        holes: hole cards when no player's are known: 2, or 4, 5, 6 for Omaha.
    """

    samples: int = 100_000
    block: int = 4096
    holes: int = 2


@dataclasses.dataclass
class _Sums:
    """Tallies added up on the host, in integers."""

    shares: np.ndarray
    squares: np.ndarray
    wins: np.ndarray
    ties: np.ndarray
    deals: int = 0

    @classmethod
    def none(cls, players: int) -> "_Sums":
        shares, wins, ties = (np.zeros(players, np.int64) for _ in range(3))
        return cls(shares, np.zeros(players), wins, ties)

    def add(self, more: Tally) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + np.asarray(getattr(more, field.name)))

    def equity(self, exact: bool) -> Equity:
        """The means, and the standard error ``sqrt((mean x^2 - (mean x)^2) / (n - 1))``."""
        deals = int(self.deals)
        mean = self.shares / (POT * deals)
        variance = np.maximum(self.squares / deals - mean * mean, 0.0)
        error = np.zeros_like(mean) if exact else np.sqrt(variance / max(deals - 1, 1))
        return Equity(mean, error, self.wins / deals, self.ties / deals, deals)


def _gone(hands: Sequence[Sequence[int]], board: Sequence[int], dead: Sequence[int]) -> np.ndarray:
    """Every card that is known, ascending, if they make a deal."""
    if len(board) not in (0, 3, 4, 5):
        raise UserError(f"the board: {len(board)} cards; a board has 0, 3, 4 or 5")
    sizes = sorted({len(hand) for hand in hands})
    if len(sizes) > 1 or (sizes and sizes[0] not in (2, *OMAHA_HOLES)):
        raise UserError(f"the hands: {sizes} cards; every hand has 2, or every one 4, 5 or 6")
    return np.sort(check_cards([*board, *dead, *(card for hand in hands for card in hand)], "the deal"))


def _calls(rows: int, most: int) -> Iterator[np.ndarray]:
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
    gone, missing = _gone(hands, board, dead), BOARD_SIZE - len(board)
    live, sums = DECK_SIZE - len(gone), _Sums.none(len(hands))
    positions = jnp.asarray(completions(live, missing))
    given = np.asarray(hands, np.int32), np.asarray(board, np.int32), gone
    for rows in _calls(math.comb(live, missing), ROWS_PER_CALL):
        sums.add(runouts(*given, positions, rows))
    return sums.equity(exact=True)


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
    gone, missing = _gone([hole], board, dead), BOARD_SIZE - len(board)
    live = DECK_SIZE - len(gone)
    positions = jnp.asarray(completions(live, missing))
    given = np.asarray(hole, np.int32), np.asarray(board, np.int32), gone
    won, tied, possible = np.asarray(
        against_pairs(*given, positions, np.array([0, math.comb(live, missing)], np.int32))
    )
    return np.stack([won, tied, possible > 0]) / np.stack([np.maximum(possible, 1)] * 2 + [np.ones(PAIR_COUNT)])


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
    weight = checked_weights(weights, _gone([hole], board, dead))
    win, tie, possible = pair_equities(hole, board, dead)
    won, tied = (float(np.sum(weight * p) / np.sum(weight)) for p in (win, tie))
    lost = 1 - won - tied
    equity = np.array([won + tied / 2, lost + tied / 2])
    deals = int(possible[weight > 0].sum()) * math.comb(DECK_SIZE - 4 - len(board) - len(dead), BOARD_SIZE - len(board))
    return Equity(equity, np.zeros(2), np.array([won, lost]), np.array([tied, tied]), deals)


def _play(
    key: Key,
    hands: Sequence[Sequence[int]],
    ranges: Sequence[tuple[np.ndarray, np.ndarray]],
    board: Sequence[int],
    gone: np.ndarray,
    random: int,
    holes: int,
    cfg: MonteCarloConfig,
) -> _Sums:
    """Call `simulate` until all samples are drawn."""
    keep, other = zip(*ranges) if ranges else ((), ())
    tables = (
        np.reshape(np.asarray(keep, np.float32), (-1, PAIR_COUNT)),
        np.reshape(np.asarray(other, np.int32), (-1, PAIR_COUNT)),
    )
    known = np.reshape(np.asarray(hands, np.int32), (-1, holes))
    sums = _Sums.none(len(hands) + len(ranges) + random)
    for i, (start, stop) in enumerate(_calls(cfg.samples, ROWS_PER_CALL)):
        rows = (jax.random.fold_in(key, i), known, tables, np.asarray(board, np.int32), gone, stop - start)
        sums.add(simulate(*rows, random=random, holes=holes, block=cfg.block))
    return sums


def monte_carlo_equity(
    key: Key,
    players: Sequence[Sequence[int] | np.ndarray | None],
    board: Sequence[int] = (),
    dead: Sequence[int] = (),
    cfg: MonteCarloConfig = MonteCarloConfig(),
) -> Equity:
    """The equity of 2 to 10 players of whom cards, a range or nothing is known.

    Args:
        key: decides every draw.
        players: each a hand's cards, a range's weights [1326], or None for a random hand.
        board: 0, 3, 4 or 5 public cards.
        dead: other cards that cannot come.
        cfg: how much to draw.

    Returns:
        the equity with its standard error; ranges that collide often leave fewer deals than were drawn.

    Raises:
        UserError: for cards that are no deal, weights that are no range, and ranges that no deal satisfies.

    >>> from lqlm.poker.cards import cards
    >>> found = monte_carlo_equity(jax.random.key(0), [cards("AsAh"), None], cfg=MonteCarloConfig(samples=20_000))
    >>> bool(abs(found.equity[0] - 0.852) < 4 * found.standard_error[0])
    True
    """
    if not 2 <= len(players) <= MOST_PLAYERS or cfg.samples < 1 or cfg.block < 1:
        raise UserError(f"{len(players)} players, {cfg}: it takes 2 to {MOST_PLAYERS} players and at least one sample")
    kinds = [2 if player is None else int(len(player) == PAIR_COUNT) for player in players]
    order = np.argsort(kinds, kind="stable")
    hands = [tuple(players[i]) for i in order if kinds[i] == 0]
    holes = len(hands[0]) if hands else cfg.holes
    gone = _gone(hands, board, dead)
    ranges = [alias_table(checked_weights(players[i], gone)) for i in order if kinds[i] == 1]
    if holes not in (2, *OMAHA_HOLES) or (ranges and holes != 2):
        raise UserError(
            f"hands of {holes} cards with {len(ranges)} ranges: a hand has 2, 4, 5 or 6; a range is of pairs"
        )
    sums = _play(key, hands, ranges, board, gone, kinds.count(2), holes, cfg)
    if not sums.deals:
        raise UserError("the ranges: no deal gave every player a hand of his range; widen them or draw more samples")
    found, back = sums.equity(exact=False), np.argsort(order)
    ordered = {name: getattr(found, name)[back] for name in ("equity", "standard_error", "win", "tie")}
    return Equity(**ordered, deals=found.deals)
