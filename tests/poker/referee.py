"""What pokerkit, the referee, makes of a record: the stacks at its end."""

import dataclasses
import warnings

from lqlm.poker import cards, phh_writer
from lqlm.poker.record import Collected, Game, Hand, Money
from lqlm.poker.units import map_amounts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pokerkit


def in_chips(hand: Hand) -> Hand:
    """The hand with whole chips for units."""
    return map_amounts(hand, lambda amount: amount, Money())


def final_stacks(hand: Hand) -> dict[int, int]:
    """Seat -> stack after pokerkit's replay of the hand's PHH, rake put back into the pots."""
    fields = phh_writer.standard_fields(in_chips(hand))
    text = "".join(f"{name} = {phh_writer._toml(value)}\n" for name, value in fields.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        *_, state = pokerkit.HandHistory.loads(text)
    assert not state.status, "pokerkit does not finish the hand"
    return dict(zip(fields["seats"], state.stacks))


def without_rake(hand: Hand, stacks: dict[int, int]) -> dict[int, int] | None:
    """Our stacks with the rake given back, None where it is not told to whom."""
    winners = {result.seat for result in hand.results if isinstance(result, Collected)}
    if not hand.rake:
        return stacks
    return (
        {seat: stack + hand.rake * (seat in winners) for seat, stack in stacks.items()} if len(winners) == 1 else None
    )


def plain(hand: Hand) -> Hand:
    """The hand without what PHH has no standard field for."""
    return dataclasses.replace(hand, finishes=())


def best_hands(hand: Hand, able: tuple[int, ...], board: int) -> list[int]:
    """Who wins a pot by pokerkit's evaluators: the best high hands (hi/lo is not split here)."""
    kind = pokerkit.StandardHighHand if hand.game is Game.HOLDEM else pokerkit.OmahaHoldemHand
    if len(able) == 1:
        return list(able)
    shared = cards.text(hand.boards[board], "")
    made = {h.seat: kind.from_game(cards.text(h.cards, ""), shared) for h in hand.holes if h.seat in able}
    return [seat for seat in able if made[seat] == max(made.values())]
