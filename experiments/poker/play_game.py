"""A table with one person at it: hands are dealt, the others decide, and the person is waited for."""

import dataclasses
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from decimal import Decimal

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.actions import fold_or_check, is_legal, passive, pot_total, raise_to, resolve
from lqlm.poker.arena.match import DECK, stream
from lqlm.poker.arena.observation import Agent, Mixed, Observation
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import Chairs, deal, hand_in_steps
from lqlm.poker.record import Act, Game, Hand, Shown
from lqlm.poker.replay import outcome

PERSON = "You"
ADVICE = 103
"""Stream of the draws of advice, beside those of ``lqlm.poker.arena.match``; advice changes no card and no decision."""
_AMOUNT = re.compile(r"\d{1,7}(?:\.\d{1,4})?|\.\d{1,4}")
GAMES = {"holdem": Game.HOLDEM, "omaha": Game.OMAHA}


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """A table to play at.

    Attributes:
        game: ``holdem`` (no limit) or ``omaha`` (pot limit).
        seats: 2 to 10; the person has seat 1.
        opponents: names of agents, taken in turn to fill the seats.
        stack: of everyone at the beginning of every hand, in big blinds.
        seed: of cards and of the others' decisions.
    """

    game: str = "holdem"
    seats: int = 6
    opponents: tuple[str, ...] = ("tight", "loose")
    stack: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            raise UserError(f"game {self.game!r}: it is one of {', '.join(GAMES)}")
        if not 2 <= self.seats <= 10 or not self.opponents:
            raise UserError(
                f"{self.seats} seats, {len(self.opponents)} opponents: a table has 2 to 10 seats and others"
            )
        if not 1 <= self.stack <= 100_000 or self.seed < 0:
            raise UserError(f"stack {self.stack}, seed {self.seed}: 1 to 100000 big blinds, a seed of 0 or more")

    @property
    def rules(self) -> Rules:
        """Blinds of 50 and 100 chips."""
        return Rules(GAMES[self.game], stack=100 * self.stack)


@dataclasses.dataclass(frozen=True)
class Over:
    """A hand that is over, as the person may see it: own cards, and those that were shown."""

    hand: Hand
    chips: int


class PlayedTable:
    """The state of a table between a person's decisions; made once, changed by :meth:`deal` and :meth:`act`.

    Attributes:
        settings: of the table.
        number: of the hand, from 1; 0 before the first.
        seen: what the person whose turn it is sees; None when no hand is on.
        over: the last hand once it is over, else None.
        won: chips of all hands together.
        hands: the records of all hands that are over, each with the person's cards and the cards that were shown.
        notes: of this hand, on opponents that could not answer.
        lock: for those who serve several requests at once.
    """

    def __init__(self, settings: TableSettings, agents: Mapping[str, Agent]) -> None:
        for name in settings.opponents:
            if name not in agents:
                raise UserError(f"opponent {name!r}: it is one of {', '.join(agents)}")
        self.settings, self.rules = settings, settings.rules
        self.number, self.won = 0, 0
        self.seen: Observation | None = None
        self.over: Over | None = None
        self.hands: list[Hand] = []
        self.notes: list[str] = []
        self.lock = threading.Lock()
        kinds = [settings.opponents[at % len(settings.opponents)] for at in range(settings.seats - 1)]
        self._agents = {seat: agents[kind] for seat, kind in enumerate(kinds, 2)}
        self.names = {1: PERSON} | {seat: f"{kind.capitalize()} {seat}" for seat, kind in enumerate(kinds, 2)}
        self._steps: Generator[Observation, Act, tuple[Hand, tuple[int, ...]]] | None = None
        self._rngs: dict[int, np.random.Generator] = {}
        self._order: list[int] = []

    def deal(self) -> None:
        """Begin the next hand and go on to the person's first decision, or to the end.

        Raises:
            UserError: while a hand is on.
        """
        if self.seen is not None:
            raise UserError("a hand is on; play it to its end first")
        count, at = self.settings.seats, self.number
        self.number, self.over, self.notes = self.number + 1, None, []
        self._order = (np.roll(np.arange(count), -(at % count) - 1) + 1).tolist()
        self._rngs = {seat: stream(self.settings.seed, at, seat - 1) for seat in self._order}
        chairs = Chairs((self.rules.stack,) * count, tuple(self._order), tuple(self.names[s] for s in self._order))
        dealt = deal(stream(self.settings.seed, at, DECK), count, self.rules.game.hole_cards)
        self._steps = hand_in_steps(self.rules, chairs, dealt, f"{self.settings.seed}{self.number:06}")
        self._go(lambda steps: next(steps))

    def act(self, act: Act) -> None:
        """The person's decision, and what follows up to the next one, or to the end.

        Raises:
            UserError: when no hand is on, or the decision is not legal.
        """
        if self.seen is None:
            raise UserError("no hand is on; deal one first")
        if not is_legal(act, self.seen):
            raise UserError(f"{act.kind.value} {bb(act.amount, self.rules.big)} bb is not legal here")
        self._go(lambda steps: steps.send(act))

    def _go(self, step: Callable[..., Observation]) -> None:
        assert self._steps is not None
        try:
            seen = step(self._steps)
            while seen.seat != 1:
                seen = self._steps.send(self._other(seen))
            self.seen = seen
        except StopIteration as end:
            self._finish(*end.value)

    def _other(self, seen: Observation) -> Act:
        """An opponent's decision; one that cannot answer (a prompt too long for its model) checks or folds."""
        rng = self._rngs[seen.seat]
        try:
            said = self._agents[seen.seat].act(seen, rng)
        except UserError as error:
            self.notes.append(f"{self.names[seen.seat]} cannot answer and checks or folds: {error}")
            said = None
        return resolve(_drawn(said, rng) if isinstance(said, Mixed) else said, seen)[0]

    def _finish(self, hand: Hand, chips: Sequence[int]) -> None:
        won = chips[self._order.index(1)]
        seen = dataclasses.replace(hand, holes=tuple(hole for hole in hand.holes if hole.seat == 1))
        self.seen, self._steps, self.over = None, None, Over(seen, won)
        self.won += won
        self.hands.append(seen)


def _drawn(mixed: Mixed, rng: np.random.Generator) -> Act:
    chances = np.asarray(mixed.probabilities, np.float64)
    return mixed.acts[int(rng.choice(len(chances), p=chances / chances.sum()))]


def bb(chips: int, big: int) -> str:
    """Chips in big blinds, as few decimals as they need.

    >>> bb(250, 100), bb(1000, 100), bb(-50, 100)
    ('2.5', '10', '-0.5')
    """
    return format((Decimal(chips) / big).normalize(), "f")


def read_total(text: str, seen: Observation) -> int:
    """The chips of a bet or of the total of a raise, said in big blinds.

    Raises:
        UserError: when it is no such number, or outside of what is allowed; the message says what is.
    """
    big, legal = seen.opening.big_blind, seen.legal
    if not legal.most:
        raise UserError("no bet or raise is allowed here")
    if not _AMOUNT.fullmatch(text):
        raise UserError(f"{text[:20]!r} is no number of big blinds; write for example {bb(legal.least, big)}")
    chips = Decimal(text) * big
    total = int(chips)
    if not legal.least <= total <= legal.most or chips != total:
        raise UserError(f"{text[:20]} bb is not allowed; give {bb(legal.least, big)} to {bb(legal.most, big)} bb")
    return total


def act_named(word: str, amount: str, seen: Observation) -> Act:
    """The decision that a word means: fold, check, call, all-in, or bet and raise with a total in big blinds.

    Raises:
        UserError: when it is not legal; the message says why.
    """
    legal = seen.legal
    if word == "fold":
        if not legal.call:
            raise UserError("there is nothing to fold to; check instead")
        return fold_or_check(seen)
    if word in ("check", "call"):
        if (word == "check") == bool(legal.call):
            raise UserError(f"a {word} is not possible; {'call or fold' if legal.call else 'check instead'}")
        return passive(seen)
    if word == "all-in" and legal.call == seen.stacks[seen.seat]:
        return passive(seen)
    if word in ("all-in", "pot"):
        if not legal.most:
            raise UserError("no bet or raise is allowed here")
        total = seen.bets[seen.seat] + seen.stacks[seen.seat] if word == "all-in" else pot_total(seen, 1.0)
        if word == "all-in" and total > legal.most:
            raise UserError(f'pot limit: no more than {bb(legal.most, seen.opening.big_blind)} bb; that is "pot"')
        return raise_to(seen, total)
    if word not in ("bet", "raise"):
        raise UserError(f"{word[:20]!r} is no decision; write fold, check, call, bet, raise, pot or all-in")
    return raise_to(seen, read_total(amount, seen))


def name_of(act: Act, big: int) -> str:
    """A decision as a person reads it, amounts in big blinds.

    >>> from lqlm.poker.record import ActKind
    >>> name_of(Act(1, ActKind.RAISE, 600), 100)
    'raise to 6 bb'
    """
    word = {"folds": "fold", "checks": "check", "calls": "call", "bets": "bet", "raises": "raise to"}[act.kind.value]
    return f"{word} {bb(act.amount, big)} bb" if word in ("bet", "raise to") else word


def shown_cards(hand: Hand) -> dict[int, tuple[int, ...]]:
    """Seat -> cards that were turned up at the end of a hand."""
    return {item.seat: item.cards for item in hand.results if isinstance(item, Shown)}


def final_pot(hand: Hand) -> int:
    """Chips of all pots of a hand that is over, without what was given back."""
    return sum(pot.amount for pot in outcome(hand).pots)
