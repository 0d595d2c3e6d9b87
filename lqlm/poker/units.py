"""A hand in other units: the same amounts with more decimals or fewer."""

import dataclasses
from collections.abc import Callable

from lqlm.poker.record import Hand, HandError, Money, Stakes


def map_amounts(hand: Hand, change: Callable[[int], int], money: Money) -> Hand:
    """A hand with every amount changed, as by another unit."""

    def of(item):  # type: ignore[no-untyped-def]
        return dataclasses.replace(item, amount=change(item.amount)) if hasattr(item, "amount") else item

    return dataclasses.replace(
        hand,
        money=money,
        stakes=Stakes(change(hand.stakes.small), change(hand.stakes.big), change(hand.stakes.cap)),
        seats=tuple(dataclasses.replace(seat, stack=change(seat.stack)) for seat in hand.seats),
        posts=tuple(map(of, hand.posts)),
        streets=tuple(tuple(map(of, acts)) for acts in hand.streets),
        returned=hand.returned and of(hand.returned),
        results=tuple(map(of, hand.results)),
        rake=change(hand.rake),
    )


def with_decimals(hand: Hand, decimals: int) -> Hand:
    """The same hand in a unit of so many decimals.

    Raises:
        HandError: when an amount would not be whole.
    """
    factor = 10 ** abs(decimals - hand.money.decimals)
    more = decimals >= hand.money.decimals

    def change(amount: int) -> int:
        if more:
            return amount * factor
        if amount % factor:
            raise HandError(f"an amount has more than {decimals} decimals")
        return amount // factor

    return map_amounts(hand, change, dataclasses.replace(hand.money, decimals=decimals))


def canonical(hand: Hand) -> Hand:
    """The same hand with no more decimals than its amounts need."""
    while hand.money.decimals > hand.money.least_decimals:
        try:
            hand = with_decimals(hand, hand.money.decimals - 1)
        except HandError:
            break
    return hand
