"""What alternatives of a decision win when bots play the hand on: bets and raises can be compared too.

The others' cards and the public ones to come are dealt anew from all that the player does not see, so that nothing of
the log's later cards counts; every alternative meets the same cards.
"""

import dataclasses

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.actions import fold_or_check, passive, pot_total, raise_to
from lqlm.poker.arena.bots import LOOSE, TIGHT, EquityBot
from lqlm.poker.arena.observation import Observation
from lqlm.poker.arena.playable import check_playable, with_cards_for_all
from lqlm.poker.arena.playout import PlayoutConfig, play_on
from lqlm.poker.record import Act, Hand, Hole

ASSUMED = (
    "the others' cards are dealt anew at random, they play on as the bots tight and loose, the player as the equity bot"
)


@dataclasses.dataclass(frozen=True, slots=True)
class PlayedOn:
    """An alternative: what it wins on average in big blinds beyond the decision taken, and half its 95% interval."""

    act: Act
    gain: float
    half: float


def played_on(hand: Hand, seen: Observation, taken: Act, playouts: int, size: float, seed: int) -> tuple[PlayedOn, ...]:
    """Alternatives of a decision against the decision taken, on the same cards.

    Args:
        hand: the record; its cards besides the player's are not used.
        seen: the decision.
        taken: what was decided; it comes first, with a gain of 0.
        playouts: how often the hand is played on.
        size: of the raise among the alternatives, in pots.
        seed: of cards and draws.

    Returns:
        Fold, check or call, and a bet or raise, those that are legal; empty for a hand that cannot be played on.
    """
    others = [fold_or_check(seen), passive(seen)]
    others += [raise_to(seen, pot_total(seen, size))] if seen.legal.most else []
    acts = [taken, *dict.fromkeys(act for act in others if act.kind is not taken.kind)]
    full = with_any_cards(hand, seen)
    if playouts < 2 or check_playable(full):
        return ()
    config = PlayoutConfig(playouts, seed, redraw=True, boards=32)
    bot = EquityBot(samples=100)
    try:
        won = play_on(full, seen.index, acts, bot, (TIGHT, LOOSE), config)
    except UserError:
        return ()
    gains = won - won[0]
    halves = 1.96 * gains.std(1, ddof=1) / np.sqrt(playouts)
    return tuple(PlayedOn(act, float(gain), float(half)) for act, gain, half in zip(acts, gains.mean(1), halves))


def with_any_cards(hand: Hand, seen: Observation) -> Hand:
    """The record with some cards for every other player, whatever the log tells: they are dealt anew."""
    return with_cards_for_all(dataclasses.replace(hand, holes=(Hole(seen.seat, seen.cards),), results=()))
