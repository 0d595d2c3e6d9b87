"""How a player plays, from the hands before: VPIP, PFR, aggression, fold to a raise."""

import dataclasses
from collections.abc import Iterable

from lqlm.poker.record import ActKind, Hand, player_of
from lqlm.poker.replay import Decision, Replay, in_hand, replay

RAISES = (ActKind.BET, ActKind.RAISE)


@dataclasses.dataclass(slots=True)
class Profile:
    """Counts of a player's play, hand by hand."""

    hands: int = 0
    entered: int = 0
    raised: int = 0
    attacks: int = 0
    calls: int = 0
    faced: int = 0
    gave_up: int = 0

    @property
    def vpip(self) -> int | None:
        """Percent of hands with chips put in by choice before the flop."""
        return _percent(self.entered, self.hands)

    @property
    def pfr(self) -> int | None:
        """Percent of hands with a raise before the flop."""
        return _percent(self.raised, self.hands)

    @property
    def aggression(self) -> int | None:
        """Percent of bets and raises among all bets, raises and calls (aggression frequency without folds)."""
        return _percent(self.attacks, self.attacks + self.calls)

    @property
    def fold_to_raise(self) -> int | None:
        """Percent of folds among the decisions that faced another player's bet or raise."""
        return _percent(self.gave_up, self.faced)


def _percent(part: int, whole: int) -> int | None:
    return (200 * part + whole) // (2 * whole) if whole else None


class Profiles:
    """The profiles of all players of a stream.  Look a player up before the hand is added: nothing of it leaks."""

    def __init__(self) -> None:
        self.of: dict[str, Profile] = {}

    def get(self, player: str) -> Profile:
        """The profile of a player, an empty one at first sight."""
        return self.of.get(player, Profile())

    def add(self, hand: Hand, played: Replay | None = None) -> None:
        """Count a hand."""
        names, decisions = player_of(hand), (played or replay(hand)).decisions
        for seat in in_hand(hand):
            profile = self.of.setdefault(names[seat], Profile())
            profile.hands += 1
            _count(profile, [decision for decision in decisions if decision.seat == seat], hand.big_blind)


def _count(profile: Profile, own: Iterable[Decision], big_blind: int) -> None:
    entered = raised = False
    for decision in own:
        kind = decision.act.kind
        entered |= decision.street == 0 and kind in (*RAISES, ActKind.CALL)
        raised |= decision.street == 0 and kind in RAISES
        profile.attacks += kind in RAISES
        profile.calls += kind is ActKind.CALL
        if decision.bet > (big_blind if decision.street == 0 else 0):
            profile.faced += 1
            profile.gave_up += kind is ActKind.FOLD
    profile.entered += entered
    profile.raised += raised
