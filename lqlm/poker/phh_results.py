"""What the players of a PHH hand won, and the rake: as the file says, or by the rules where it does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lqlm.poker.arena.showdowns import BOARD, strengths
from lqlm.poker.phh_fields import Fields
from lqlm.poker.record import Hand, HandError, Shown
from lqlm.poker.replay import Outcome

Won = dict[int, int]
"""Seat -> chips taken from the pots."""


def winnings(
    hand: Hand, played: Outcome, order: Sequence[int], data: Mapping[str, Any], reader: Fields
) -> tuple[Won, int]:
    """What each seat won, and the rake: what is missing from the file's winnings.

    Public collections leave winnings out at showdowns, and write zeros where all others folded; the pots are then paid
    by the rules, as if there were no rake.

    Args:
        hand: the record up to its results' shown cards.
        played: its pots.
        order: seats from the left of the button on, as the file has its players.
        data: fields of the file.
        reader: of its amounts.

    Raises:
        HandError: when neither the file nor the cards that it shows say who won.
    """
    if "finishing_stacks" in data:
        final = dict(zip(order, map(reader.amount, data["finishing_stacks"]), strict=True))
        return {seat: final[seat] - played.stacks[seat] for seat in order}, 0
    told = dict(zip(order, map(reader.amount, data["winnings"]), strict=True)) if "winnings" in data else {}
    if any(told.values()):
        return told, max(sum(pot.amount for pot in played.pots) - sum(told.values()), 0)
    if len(played.pots) == 1 and len(played.pots[0].seats) == 1:
        return {played.pots[0].seats[0]: played.pots[0].amount}, 0
    return _settled(hand, played, order), 0


def _settled(hand: Hand, played: Outcome, order: Sequence[int]) -> Won:
    """By the cards that were shown: who mucked has lost, odd chips go to the first from the left of the button."""
    shown = {one.seat: one.cards for one in hand.results if isinstance(one, Shown) and one.cards}
    told = all(set(pot.seats) & set(shown) for pot in played.pots)
    if not told or not hand.game.high_only or len(hand.boards[0]) < BOARD:
        raise HandError("the file tells neither finishing_stacks nor winnings nor the cards of a showdown")
    holes, boards = np.asarray(list(shown.values())), np.tile(hand.boards[0], (len(shown), 1))
    of, won = dict(zip(shown, strengths(holes, boards).tolist())), dict.fromkeys(shown, 0)
    for pot in played.pots:
        able = [seat for seat in order if seat in pot.seats and seat in shown]
        best = [seat for seat in able if of[seat] == max(of[other] for other in able)]
        each, odd = divmod(pot.amount, len(best))
        for place, seat in enumerate(best):
            won[seat] += each + (place < odd)
    return won
