"""Grades of decisions by a stated rule, the baseline that advises without a model, and totals."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from experiments.poker.advice import Advice
from experiments.poker.review_playout import PlayedOn
from lqlm.poker.arena.actions import passive, pot_total, raise_to
from lqlm.poker.arena.observation import Observation
from lqlm.poker.facts import Facts
from lqlm.poker.record import Act, ActKind, Hand
from lqlm.poker.replay import Decision
from lqlm.poker.select import net_mbb

GRADES = ("A", "B", "C", "D")
Chances = tuple[tuple[Act, float], ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How decisions are graded, and how the baseline decides.

    Attributes:
        bounds: a decision is an A, B or C when its kind (fold, check, call, bet or raise, of any size) has so great a
            part of the probability of the adviser's most probable kind; a D below.
        edge: what the baseline's equity must have above a fair share of the pot for an even chance to bet or raise.
        width: how softly it decides.
        size: of its bets and raises, in pots.
    """

    bounds: tuple[float, float, float] = (0.75, 0.35, 0.1)
    edge: float = 0.15
    width: float = 0.05
    size: float = 0.75


@dataclasses.dataclass(frozen=True)
class Reviewed:
    """One decision of the report.

    Attributes:
        number: of the hand in the report's input, from 1.
        line: of its file.
        hand: the record.
        decision: what was decided, and what was seen.
        cards: of the player; empty where the log does not tell them.
        advice: None there.
        chances: of the adviser, most probable first.
        grade: of :data:`GRADES`, None without cards.
        ratio: the probability of the kind of decision over that of the best kind.
        played: what alternatives won when the hand was played on, the decision taken first; empty where it was not.
    """

    number: int
    line: int
    hand: Hand
    decision: Decision
    cards: tuple[int, ...]
    advice: Advice | None
    chances: Chances
    grade: str | None
    ratio: float
    played: tuple[PlayedOn, ...] = ()

    @property
    def given_up(self) -> float | None:
        """Big blinds that a fold gave up, or a call lost, against the other of the two; None where it is not known.

        It rests on the assumption of the others' ranges, and on nobody betting any more.
        """
        value = None if self.advice is None else self.advice.call_value
        if value is None or self.decision.act.kind not in (ActKind.FOLD, ActKind.CALL):
            return None
        sign = 1 if self.decision.act.kind is ActKind.FOLD else -1
        return max(0.0, sign * value) / self.hand.big_blind


def grade(act: Act, chances: Sequence[tuple[Act, float]], rule: Rule) -> tuple[str, float]:
    """The grade of a decision, and what it is made of: ``r = p(kind of the decision) / max_k p(k)``.

    Args:
        act: that was taken.
        chances: of the adviser.
        rule: its bounds.

    >>> grade(Act(1, ActKind.CALL, 5), [(Act(1, ActKind.FOLD), 0.6), (Act(1, ActKind.CALL, 5), 0.3)], Rule())
    ('B', 0.5)
    """
    kinds: dict[ActKind, float] = {act.kind: 0.0}
    for one, chance in chances:
        kinds[one.kind] = kinds.get(one.kind, 0.0) + chance
    ratio = kinds[act.kind] / max(kinds.values())
    return GRADES[sum(ratio < bound for bound in rule.bounds)], ratio


def baseline(seen: Observation, facts: Facts, rule: Rule) -> Chances:
    """Probabilities from equity and pot odds alone, ``s(x) = 1 / (1 + exp(-x / w))``.

    With equity e against n opponents it bets or raises with ``r = s(e - 1 / (n + 1) - edge)`` where that is allowed,
    calls with ``(1 - r) s(e - needed)`` and folds otherwise; without a bet to call it checks with ``1 - r``.

    Args:
        seen: the decision.
        facts: of it.
        rule: edge, width and size.

    Returns:
        Decisions with their probabilities, most probable first; empty without an equity.
    """
    if facts.equity is None:
        return ()
    seat, legal = seen.seat, seen.legal
    raises = _soft(facts.equity - 1 / (facts.opponents + 1) - rule.edge, rule) if legal.most else 0.0
    found: list[tuple[Act, float]] = []
    if legal.call:
        calls = (1 - raises) * _soft(facts.equity - (facts.needed or 0.0), rule)
        found = [(Act(seat, ActKind.FOLD), 1 - raises - calls)]
        found.append((passive(seen), calls))
    else:
        found = [(passive(seen), 1 - raises)]
    if legal.most:
        found.append((_raise(seen, rule), raises))
    return tuple(sorted(found, key=lambda pair: -pair[1]))


def _soft(x: float, rule: Rule) -> float:
    return 1 / (1 + math.exp(-x / rule.width))


def _raise(seen: Observation, rule: Rule) -> Act:
    return raise_to(seen, pot_total(seen, rule.size))


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over a report.

    Attributes:
        hands: with a decision of the player.
        decisions: all.
        ungraded: those whose cards or equity are not known.
        grades: grade -> how many.
        by_street: street -> grade -> how many.
        given_up: big blinds of folds and calls, see :attr:`Reviewed.given_up`.
        compared: folds and calls that this was computed for.
        won: big blinds that the player won in these hands.
    """

    hands: int
    decisions: int
    ungraded: int
    grades: dict[str, int]
    by_street: dict[int, dict[str, int]]
    given_up: float
    compared: int
    won: float


def totals(found: Iterable[Reviewed]) -> Totals:
    """The sums."""
    rows = list(found)
    graded = [row for row in rows if row.grade]
    losses = [row.given_up for row in rows if row.given_up is not None]
    hands = {row.number: row for row in rows}
    return Totals(
        hands=len(hands),
        decisions=len(rows),
        ungraded=len(rows) - len(graded),
        grades=_counts(graded),
        by_street={s: _counts([row for row in graded if row.decision.street == s]) for s in range(4)},
        given_up=sum(losses),
        compared=len(losses),
        won=sum(net_mbb(row.hand)[row.decision.seat] for row in hands.values()) / 1000,
    )


def _counts(rows: Sequence[Reviewed]) -> dict[str, int]:
    counts = Counter(row.grade for row in rows)
    return {name: counts[name] for name in GRADES if counts[name]}
