"""Equity by Monte Carlo: deals drawn at random, for players of whom cards, a range or nothing is known."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lqlm.errors import UserError
from lqlm.poker.deals import deal_ranges
from lqlm.poker.equity import Equity, calls, checked_weights, counted, equity_of, known_cards
from lqlm.poker.omaha import OMAHA_HOLES
from lqlm.poker.showdown import MOST_PLAYERS, ROWS_PER_CALL, simulate
from lqlm.poker.tables import PAIR_COUNT
from lqlm.types import Key


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


def _play(
    key: Key,
    hands: Sequence[Sequence[int]],
    ranges: Sequence[np.ndarray],
    board: Sequence[int],
    gone: np.ndarray,
    random: int,
    holes: int,
    cfg: MonteCarloConfig,
) -> np.ndarray:
    """Call `simulate` until all samples are drawn, and count who won."""
    known = np.reshape(np.asarray(hands, np.int32), (-1, holes))
    players = len(hands) + len(ranges) + random
    counts = np.zeros(1 << players, np.int64)
    for i, (start, stop) in enumerate(calls(cfg.samples, ROWS_PER_CALL)):
        own = jax.random.fold_in(key, i)
        # Always of one size, so that another number of samples compiles nothing.
        generator = np.random.default_rng(np.asarray(jax.random.key_data(own)))
        dealt = deal_ranges(ranges, int(stop - start), ROWS_PER_CALL + cfg.block, generator)
        rows = (own, known, dealt, np.asarray(board, np.int32), gone, stop - start)
        winners = simulate(*rows, random=random, holes=holes, block=cfg.block)
        counts += counted(np.asarray(winners)[: stop - start], players)
    return counts


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
        the equity with its standard error; ranges that collide often leave fewer deals than were drawn.  A range's
        hands come in shares of their weights, not by chance, so that the error given is rather too large.

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
    gone = known_cards(hands, board, dead)
    ranges = [checked_weights(players[i], gone) for i in order if kinds[i] == 1]
    if holes not in (2, *OMAHA_HOLES) or (ranges and holes != 2):
        raise UserError(
            f"hands of {holes} cards with {len(ranges)} ranges: a hand has 2, 4, 5 or 6; a range is of pairs"
        )
    counts = _play(key, hands, ranges, board, gone, kinds.count(2), holes, cfg)
    if not counts[1:].any():
        raise UserError("the ranges: no deal gave every player a hand of his range; widen them or draw more samples")
    found, back = equity_of(counts, exact=False), np.argsort(order)
    ordered = {name: getattr(found, name)[back] for name in ("equity", "standard_error", "win", "tie")}
    return Equity(**ordered, deals=found.deals)
