"""A PokerStars hand that was read, held against itself: its total pot, its uncalled bet, its rules."""

import dataclasses

from lqlm.poker.record import Collected, Hand, HandError, Returned
from lqlm.poker.replay import outcome, validate
from lqlm.poker.units import with_decimals


def unround(hand: Hand, total: int) -> tuple[Hand, int]:
    """A pot split evenly whose odd unit was rounded in print: the shares are halves of a unit.

    Texts that were converted from chips print $103.88 and $103.88 of a pot of $207.75.
    """
    shares = [result for result in hand.results if isinstance(result, Collected)]
    wrong = sum(share.amount for share in shares) + hand.rake - total
    if abs(wrong) != 1 or len(shares) != 2 or shares[0].amount != shares[1].amount:
        return hand, total
    fine = with_decimals(hand, hand.money.decimals + 1)
    half = (total - hand.rake) * 10 // 2
    results = tuple(dataclasses.replace(r, amount=half) if isinstance(r, Collected) else r for r in fine.results)
    return dataclasses.replace(fine, results=results), total * 10


def check(hand: Hand, total: int) -> Hand:
    """The hand, with the uncalled bet where an old log does not state it.

    Raises:
        HandError: when it breaks a rule, or its total pot is not what was put in.
    """
    if hand.returned is None:
        from_rules = _state_return(hand)
        hand = dataclasses.replace(hand, returned=from_rules)
    else:
        validate(hand)
    taken = sum(result.amount for result in hand.results if isinstance(result, Collected))
    if total != taken + hand.rake:
        raise HandError(f"the total pot is {total}, but {taken} are collected and {hand.rake} are rake")
    return hand


def _state_return(hand: Hand) -> Returned | None:
    """The uncalled bet of a hand whose log does not state one."""
    try:
        validate(hand)
    except HandError as error:
        if not str(error).startswith("the uncalled bet"):
            raise
        back = outcome(hand).returned
        validate(dataclasses.replace(hand, returned=back))
        return back
    return None
