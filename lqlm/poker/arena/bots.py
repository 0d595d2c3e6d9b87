"""Agents to play against: trivial ones, players by equity, and players with a known leak."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lqlm.poker.arena.actions import Menu, PotFractions, fold_or_check, passive, pot_total, raise_to
from lqlm.poker.arena.observation import Agent, Mixed, Observation, act_many
from lqlm.poker.arena.showdowns import equities_against_one
from lqlm.poker.record import Act
from lqlm.poker.replay import to_win


@dataclasses.dataclass(frozen=True)
class RandomBot:
    """Every decision of the menu is as likely."""

    menu: Menu = PotFractions()

    def act(self, observation: Observation, rng: np.random.Generator) -> Mixed:
        """The uniform distribution."""
        acts = self.menu(observation)
        return Mixed(acts, (1 / len(acts),) * len(acts))


@dataclasses.dataclass(frozen=True)
class CallBot:
    """Checks and calls."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Act:
        """The check or the call."""
        return passive(observation)


@dataclasses.dataclass(frozen=True)
class FoldBot:
    """Checks what is free and folds everything else."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Act:
        """The check or the fold."""
        return fold_or_check(observation)


@dataclasses.dataclass(frozen=True)
class EquityBot:
    """Plays by its equity against random hands, whatever the others do.

    With equity e against one random hand and n opponents left, it takes ``v = e^n`` for its chance to win, calls when
    v beats the pot odds by a margin, and bets or raises when v beats a fair share of the pot, ``1 / (n + 1)``, by an
    edge; the edge grows with every raise before on this street.

    Attributes:
        call_margin: on top of the pot odds, in parts of the pot; less than 0 calls too often.
        raise_edge: on top of the fair share.
        per_raise: what each earlier raise of the street adds to both.
        bluff: the probability to raise a hand that would check or fold.
        size: of a raise, in pots.
        samples: random deals for e.
    """

    call_margin: float = 0.0
    raise_edge: float = 0.15
    per_raise: float = 0.1
    bluff: float = 0.05
    size: float = 0.75
    samples: int = 200

    def act(self, observation: Observation, rng: np.random.Generator) -> Act:
        """Raise, call or fold."""
        return self.act_many([observation], [rng])[0]

    def act_many(self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]) -> list[Act]:
        """The decisions of many tables, their hands evaluated together."""
        cards, boards = [seen.cards for seen in observations], [seen.board for seen in observations]
        equities = equities_against_one(cards, boards, rngs, self.samples)
        return [self._decide(*each) for each in zip(observations, equities, rngs)]

    def _decide(self, seen: Observation, equity: float, rng: np.random.Generator) -> Act:
        legal, others = seen.legal, len(seen.live) - 1
        value = equity**others
        raised = self.per_raise * raises_before(seen)
        bluffs = rng.random() < self.bluff
        if legal.most and (value > 1 / (others + 1) + self.raise_edge + raised or bluffs):
            return raise_to(seen, pot_total(seen, self.size))
        odds = legal.call / (to_win(seen.opening, seen.decision) + legal.call)
        return passive(seen) if value >= odds + self.call_margin + raised else fold_or_check(seen)


def raises_before(seen: Observation) -> int:
    """Bets and raises on this street so far; a blind is none."""
    return sum(act.kind.value in ("bets", "raises") for act in seen.streets[-1])


@dataclasses.dataclass(frozen=True)
class FoldsToRaises:
    """A leak: plays as another, but folds to a bet or raise with this probability."""

    player: Agent = EquityBot()
    probability: float = 0.8

    def act(self, observation: Observation, rng: np.random.Generator) -> Act | Mixed | None:
        """Fold too much."""
        return self.act_many([observation], [rng])[0]

    def act_many(
        self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
    ) -> list[Act | Mixed | None]:
        """The decisions of many tables; the other player is asked about those that are not folded, all at once."""
        folds = [
            bool(seen.legal.call and raises_before(seen)) and rng.random() < self.probability
            for seen, rng in zip(observations, rngs, strict=True)
        ]
        left = [i for i, fold in enumerate(folds) if not fold]
        answers = act_many(self.player, [observations[i] for i in left], [rngs[i] for i in left])
        found: list[Act | Mixed | None] = [fold_or_check(seen) for seen in observations]
        for i, answer in zip(left, answers):
            found[i] = answer
        return found


TIGHT = EquityBot(call_margin=0.12, raise_edge=0.2, bluff=0.02)
"""Enters few pots and gives up early."""
LOOSE = EquityBot(call_margin=-0.05, raise_edge=0.08, bluff=0.1)
"""Enters many pots, calls light and raises thin."""
FOLDS_TOO_MUCH = FoldsToRaises()
CALLS_TOO_MUCH = EquityBot(call_margin=-0.5, raise_edge=0.3, bluff=0.0)
"""Nearly never folds."""
NEVER_BLUFFS = EquityBot(call_margin=0.05, raise_edge=0.3, bluff=0.0, size=1.0)
"""Raises only what is far ahead: its raises can be folded to."""
BOTS: dict[str, Agent] = {"random": RandomBot(), "call": CallBot(), "fold": FoldBot(), "tight": TIGHT, "loose": LOOSE}
LEAKS: dict[str, Agent] = {
    "folds too much": FOLDS_TOO_MUCH,
    "calls too much": CALLS_TOO_MUCH,
    "never bluffs": NEVER_BLUFFS,
}
