"""One hand at the table: pokerkit keeps the rules, agents decide, and a record of the hand comes out."""

import dataclasses
import time
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.actions import resolve
from lqlm.poker.arena.observation import Agent, Mixed, Observation
from lqlm.poker.arena.recording import finished, opening, short_big_blind
from lqlm.poker.arena.referee import deal_board, deal_hole, new_state, stack_deck, take
from lqlm.poker.arena.rules import Rules
from lqlm.poker.cards import DECK
from lqlm.poker.record import Act, Hand
from lqlm.poker.replay import BOARD_CARDS, Legal, act, begin, legal, next_street


@dataclasses.dataclass(frozen=True, slots=True)
class Played:
    """A hand that was played.

    Attributes:
        hand: the record with every seat's cards.
        chips: what each player won (less than 0: lost), in the order of the seats from the left of the button on.
        decisions: how many each took.
        illegal: how many of these were illegal or could not be read.
        seconds: what each took to decide.
    """

    hand: Hand
    chips: tuple[int, ...]
    decisions: tuple[int, ...]
    illegal: tuple[int, ...]
    seconds: tuple[float, ...]


def observe(
    state: Any, start: Hand, seats: Sequence[int], dealt: "Deal", streets: Sequence[Sequence[Act]], allowed: Legal
) -> Observation:
    """What the player whose turn it is may know.

    A raise must be allowed by the referee and by the rules that logs are replayed by (`allowed`), which keep a player
    bound whom a short all-in of another does not free.
    """
    at = state.actor_index
    least = max(state.min_completion_betting_or_raising_to_amount or 0, allowed.least)
    most = min(state.max_completion_betting_or_raising_to_amount or 0, allowed.most)
    return Observation(
        seat=seats[at],
        cards=dealt.holes[at],
        street=state.street_index,
        board=dealt.board[: BOARD_CARDS[state.street_index]],
        pot=sum(state.starting_stacks) - sum(state.stacks),
        bet=max(state.bets),
        stacks=dict(zip(seats, state.stacks)),
        bets=dict(zip(seats, state.bets)),
        live=tuple(seat for seat, status in zip(seats, state.statuses) if status),
        legal=Legal(state.checking_or_calling_amount, *((least, most) if most else (0, 0))),
        index=sum(map(len, streets)),
        opening=start,
        streets=tuple(map(tuple, streets)),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Deal:
    """The cards of a hand: hole cards from the left of the button on, and the five cards of the board."""

    holes: tuple[tuple[int, ...], ...]
    board: tuple[int, ...]


def deal(rng: np.random.Generator, players: int, holes: int) -> Deal:
    """Shuffle and deal."""
    drawn = rng.permutation(len(DECK))[: players * holes + 5].tolist()
    hands = tuple(tuple(drawn[i * holes : (i + 1) * holes]) for i in range(players))
    return Deal(hands, tuple(drawn[players * holes :]))


@dataclasses.dataclass(frozen=True, slots=True)
class Chairs:
    """Who sits down, from the left of the button on (the last one has the button).

    Attributes:
        stacks: chips of each player.
        seats: the number of each player's chair.
        names: of the players.
    """

    stacks: tuple[int, ...]
    seats: tuple[int, ...]
    names: tuple[str, ...]


def hand_in_steps(
    rules: Rules, chairs: Chairs, dealt: Deal, hand_id: str = ""
) -> Generator[Observation, Act, tuple[Hand, tuple[int, ...]]]:
    """One hand as a generator, for a table that waits for people: what is seen comes out, legal decisions are sent in.

    Args:
        rules: game and blinds.
        chairs: who plays.
        dealt: the cards, in the same order.
        hand_id: of the record.

    Yields:
        what the player whose turn it is may know.

    Returns:
        the record, and what each player won.

    Raises:
        UserError: when players, cards and stacks do not fit together.
    """
    count, seats = len(chairs.seats), chairs.seats
    if not 2 <= count <= 10 or not count == len(dealt.holes) == len(chairs.stacks) == len(chairs.names):
        found = f"{count} seats, {len(dealt.holes)} hands of cards, {len(chairs.stacks)} stacks"
        raise UserError(f"the table: {found}; 2 to 10 players can sit down, with one of each")
    start, state = opening(rules, chairs.stacks, seats, chairs.names, hand_id), new_state(rules, chairs.stacks)
    if short_big_blind(start):
        raise UserError(f"the table: the big blind cannot be paid in full ({rules.big}); give that player more chips")
    stack_deck(state, [*(card for cards in dealt.holes for card in cards), *dealt.board])
    for at, cards in enumerate(dealt.holes):
        deal_hole(state, at, cards)
    streets: list[list[Act]] = [[]]
    betting = begin(start)
    while state.status:
        if state.actor_index is None:
            deal_board(state, dealt.board[BOARD_CARDS[len(streets) - 1] : BOARD_CARDS[len(streets)]])
            streets.append([])
            next_street(betting)
            continue
        chosen = yield observe(state, start, seats, dealt, streets, legal(betting))
        streets[-1].append(chosen)
        act(betting, chosen)
        take(state, chosen)
    return finished(start, state, seats, dealt.holes, dealt.board, streets), tuple(state.payoffs)


def play_hand(
    rules: Rules,
    agents: Sequence[Agent],
    dealt: Deal,
    rngs: Sequence[np.random.Generator],
    *,
    stacks: Sequence[int] | None = None,
    seats: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    hand_id: str = "",
) -> Played:
    """Let agents play one hand to its end.

    Args:
        rules: game, blinds and stacks.
        agents: one for each player, from the left of the button on (the last one has the button).
        dealt: the cards, in the same order.
        rngs: what each agent, and the draw from its distributions, takes its random numbers from.
        stacks: chips of each player; those of the rules by default.
        seats: the number of each player's chair; 1, 2, .. by default.
        names: players' names; "Player 1", .. by default.
        hand_id: of the record.

    Returns:
        the record, the chips won and lost, and the counts of decisions.

    Raises:
        UserError: when players, cards and stacks do not fit together.
    """
    hand = Underway(rules, agents, dealt, rngs, stacks=stacks, seats=seats, names=names, hand_id=hand_id)
    while hand.played is None:
        begun = time.perf_counter()
        answer = hand.agent.act(hand.seen, hand.rng)
        hand.take(answer, time.perf_counter() - begun)
    return hand.played


class Underway:
    """A hand that is being played, for one who asks the agents; the arguments are those of :func:`play_hand`.

    Attributes:
        seen: what the player whose turn it is may know.
        played: the hand once it is over, None before.
    """

    seen: Observation

    def __init__(
        self,
        rules: Rules,
        agents: Sequence[Agent],
        dealt: Deal,
        rngs: Sequence[np.random.Generator],
        *,
        stacks: Sequence[int] | None = None,
        seats: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        hand_id: str = "",
    ) -> None:
        count = len(agents)
        if len(rngs) != count:
            raise UserError(f"the table: {count} agents, {len(rngs)} generators; each agent has one")
        self._agents, self._rngs, self._seats = agents, rngs, tuple(seats or range(1, count + 1))
        called = tuple(names or (f"Player {seat}" for seat in self._seats))
        chairs = Chairs(tuple(stacks or [rules.stack] * count), self._seats, called)
        self._steps = hand_in_steps(rules, chairs, dealt, hand_id)
        self._decisions, self._illegal, self._seconds = [0] * count, [0] * count, [0.0] * count
        self.played: Played | None = None
        self._go_on(None)

    @property
    def agent(self) -> Agent:
        """Whose turn it is."""
        return self._agents[self._at]

    @property
    def rng(self) -> np.random.Generator:
        """The random numbers of the seat whose turn it is."""
        return self._rngs[self._at]

    def take(self, answer: Act | Mixed | None, seconds: float) -> None:
        """Go on with an agent's answer.

        Args:
            answer: of :attr:`agent` to :attr:`seen`.
            seconds: that it took.
        """
        at = self._at
        chosen, wrong = resolve(drawn(answer, self.rng), self.seen)
        self._decisions[at], self._illegal[at] = self._decisions[at] + 1, self._illegal[at] + wrong
        self._seconds[at] += seconds
        self._go_on(chosen)

    def _go_on(self, chosen: Act | None) -> None:
        try:
            self.seen = next(self._steps) if chosen is None else self._steps.send(chosen)
            self._at = self._seats.index(self.seen.seat)
        except StopIteration as end:
            hand, chips = end.value
            self.played = Played(hand, chips, tuple(self._decisions), tuple(self._illegal), tuple(self._seconds))


def drawn(answer: Act | Mixed | None, rng: np.random.Generator) -> Act | None:
    """The decision of an answer, drawn where it is a distribution."""
    if not isinstance(answer, Mixed):
        return answer
    total = np.cumsum(np.asarray(answer.probabilities, np.float64))
    at = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    return answer.acts[min(at, len(answer.acts) - 1)]
