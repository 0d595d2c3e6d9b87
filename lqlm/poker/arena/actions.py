"""Decisions to choose from, and the legal decision that an illegal one counts as."""

import dataclasses
from collections.abc import Callable

from lqlm.poker.arena.observation import Observation
from lqlm.poker.record import Act, ActKind
from lqlm.poker.state import CHOICES

Menu = Callable[[Observation], tuple[Act, ...]]
"""The decisions that an agent chooses from: all legal, each once; fold only when there is a bet to call."""
RAISES = (ActKind.BET, ActKind.RAISE)


def passive(seen: Observation) -> Act:
    """The call, or the check when there is nothing to call."""
    call = seen.legal.call
    if not call:
        return Act(seen.seat, ActKind.CHECK)
    return Act(seen.seat, ActKind.CALL, call, call == seen.stacks[seen.seat])


def fold_or_check(seen: Observation) -> Act:
    """The fold, or the check when it is free."""
    return Act(seen.seat, ActKind.FOLD if seen.legal.call else ActKind.CHECK)


def raise_to(seen: Observation, total: int) -> Act:
    """The bet or raise of the legal total nearest to this one; raising must be allowed."""
    total = min(max(total, seen.legal.least), seen.legal.most)
    kind = ActKind.RAISE if seen.bet else ActKind.BET
    return Act(seen.seat, kind, total, total == seen.bets[seen.seat] + seen.stacks[seen.seat])


def pot_total(seen: Observation, fraction: float) -> int:
    """The total of a raise by a fraction of the pot after a call, ``bet + f (pot + call)``."""
    return seen.bet + round(fraction * (seen.pot + seen.legal.call))


def _with_raises(seen: Observation, totals: list[int]) -> tuple[Act, ...]:
    acts = ([Act(seen.seat, ActKind.FOLD)] if seen.legal.call else []) + [passive(seen)]
    if seen.legal.most:
        inside = sorted({total for total in totals if seen.legal.least <= total <= seen.legal.most})
        acts += [raise_to(seen, total) for total in inside or [seen.legal.least]]
        acts += [raise_to(seen, seen.legal.most)] if acts[-1].amount != seen.legal.most else []
    return tuple(acts)


@dataclasses.dataclass(frozen=True)
class PotFractions:
    """Raises by fractions of the pot, and the greatest that is allowed (all-in without a limit)."""

    fractions: tuple[float, ...] = (0.5, 1.0)

    def __call__(self, seen: Observation) -> tuple[Act, ...]:
        """The decisions."""
        return _with_raises(seen, [pot_total(seen, fraction) for fraction in self.fractions])


@dataclasses.dataclass(frozen=True)
class BlindChoices:
    """PokerGPT's bet choices: totals in big blinds, and the greatest that is allowed."""

    blinds: tuple[int, ...] = CHOICES

    def __call__(self, seen: Observation) -> tuple[Act, ...]:
        """The decisions."""
        return _with_raises(seen, [count * seen.opening.big_blind for count in self.blinds])


def is_legal(act: Act, seen: Observation) -> bool:
    """Whether a decision may be taken as it is."""
    if act.kind in RAISES:
        legal = seen.legal.least <= act.amount <= seen.legal.most and seen.legal.most > 0
        return legal and act == raise_to(seen, act.amount)
    return act in ((Act(seen.seat, ActKind.FOLD),) if seen.legal.call else ()) or act == passive(seen)


def resolve(act: Act | None, seen: Observation) -> tuple[Act, bool]:
    """The legal decision that an answer counts as, and whether the answer was illegal.

    A bet or raise becomes the nearest legal size, else the call, else the check; a call becomes the call of the right
    amount, else the check; a check that is not free, a fold of what is free, and what could not be read become the
    check where it is free, else the fold.
    """
    if act is not None and is_legal(act, seen):
        return act, False
    if act is not None and act.kind in RAISES and seen.legal.most:
        return raise_to(seen, act.amount), True
    if act is not None and act.kind in (*RAISES, ActKind.CALL):
        return passive(seen), True
    return fold_or_check(seen), True
