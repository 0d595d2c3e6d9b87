"""What a seat may know when it decides, and what an agent is."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lqlm.poker.record import Act, ActKind, Hand, Hole
from lqlm.poker.replay import Decision, Legal


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """A decision seen from the seat that takes it: everything that is public, and its own cards.

    Attributes:
        seat: who decides.
        cards: the seat's own hole cards.
        street: 0 before the flop .. 3 on the river.
        board: public cards.
        pot: all chips that were put in, the bets of this street among them.
        bet: the greatest bet of this street.
        stacks: seat -> chips behind, from the left of the button on.
        bets: seat -> chips put in on this street.
        live: seats that have not folded, in that order.
        legal: what may be done.
        index: decisions before this one.
        opening: the record before the first decision: seats, stacks, blinds; no cards.
        streets: decisions so far, street by street.
    """

    seat: int
    cards: tuple[int, ...]
    street: int
    board: tuple[int, ...]
    pot: int
    bet: int
    stacks: dict[int, int]
    bets: dict[int, int]
    live: tuple[int, ...]
    legal: Legal
    index: int
    opening: Hand
    streets: tuple[tuple[Act, ...], ...]

    @property
    def hand(self) -> Hand:
        """The record so far as this seat would write it: its own cards only."""
        holes = (Hole(self.seat, self.cards),)
        return dataclasses.replace(self.opening, holes=holes, streets=self.streets, boards=(self.board,))

    @property
    def decision(self) -> Decision:
        """The decision for prompts and answers (:mod:`lqlm.poker.state`, ``answers``); its ``act`` is a mere check."""
        return Decision(
            self.seat,
            self.street,
            self.board,
            self.pot,
            self.bet,
            self.stacks,
            self.bets,
            self.live,
            self.legal,
            Act(self.seat, ActKind.CHECK),
            self.index,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Mixed:
    """A distribution over decisions; the table draws from it with the seat's generator."""

    acts: tuple[Act, ...]
    probabilities: tuple[float, ...]


class Agent(Protocol):
    """Something that decides, without state between decisions; it draws only from the generator that it is given."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Act | Mixed | None:
        """One decision, a distribution over decisions, or None for an answer that could not be read."""
        ...


@runtime_checkable
class ManyAgent(Agent, Protocol):
    """An agent that decides at many tables at once, each decision as if it were asked for alone."""

    def act_many(
        self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
    ) -> Sequence[Act | Mixed | None]:
        """One answer for each observation; it draws from the generator beside it only."""
        ...


def act_many(
    agent: Agent, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
) -> Sequence[Act | Mixed | None]:
    """The answers of any agent to many observations: all at once where it can, else one after the other."""
    if not observations:
        return []
    if isinstance(agent, ManyAgent):
        return agent.act_many(observations, rngs)
    return [agent.act(seen, rng) for seen, rng in zip(observations, rngs, strict=True)]
