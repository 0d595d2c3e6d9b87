"""What a decision is worth, by playing on from it: every alternative on the same cards, by the same players.

A playout deals the cards that are still to come, takes an alternative, and lets agents finish the hand at the table of
:mod:`lqlm.poker.arena.table`.  All alternatives share the cards and the random numbers of each playout (duplicate
deals), so that most of the luck cancels in their differences, and where nobody could bet any more, the mean over the
boards that could come takes the place of the one that came (:mod:`lqlm.poker.arena.luck`).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.actions import is_legal, resolve
from lqlm.poker.arena.lockstep import ABREAST, side_by_side
from lqlm.poker.arena.luck import luck_of
from lqlm.poker.arena.observation import Agent, Mixed, Observation
from lqlm.poker.arena.playable import as_logged, come_to, logged, put_in, seen_at
from lqlm.poker.arena.showdowns import BOARD, draws, live_cards
from lqlm.poker.arena.table import Deal, drawn
from lqlm.poker.record import Act, ActKind, Hand
from lqlm.poker.replay import in_hand

_CARDS, _WHO, _LUCK = 104, 105, 106
"""Streams of a playout beside those of the seats."""


@dataclasses.dataclass(frozen=True)
class PlayoutConfig:
    """How hands are played on.

    Attributes:
        playouts: N, how often.
        seed: of cards and draws.
        redraw: deal the others' hole cards anew in each playout, any hand as likely, folded ones too; else they hold
            what they held.  What somebody held is one draw from what that player's decisions so far let one expect, so
            that the value stays that of the real game; cards dealt anew know nothing of these decisions.
        logged: the first playout gets the log's public cards, as far as there are any; only without ``redraw``.
        boards: how many boards stand for those that could come where all are too many (before the flop).
    """

    playouts: int = 8
    seed: int = 0
    redraw: bool = False
    logged: bool = True
    boards: int = 256

    def __post_init__(self) -> None:
        if self.playouts < 1 or self.boards < 1:
            raise UserError(f"playouts {self.playouts}, boards {self.boards}; give 1 or more")


def play_on(
    hand: Hand, index: int, acts: Sequence[Act], decider: Agent, others: Sequence[Agent], config: PlayoutConfig
) -> np.ndarray:
    """What alternatives for one decision win, in big blinds from this decision on.

    The zero is the stack at the moment of the decision: chips that are in the pot already are gone, whoever decides
    what, so that a fold is exactly 0, a call that loses its price less than 0, and a pot that is won all of it.  The
    result of the whole hand is this less what was put in before, a constant of the decision: differences of
    alternatives are the same, and a mean over many decisions is not drowned in the blinds and calls of before.  There
    is no rake.

    Args:
        hand: the record; every player's hole cards must be known in it.
        index: number of the decision in its replay.
        acts: legal alternatives.
        decider: decides for the same seat from the next decision on.
        others: decide for the others; one is drawn for each seat in each playout.
        config: how often, and from which cards.

    Returns:
        float64 [acts, N].

    Raises:
        UserError: when the hand cannot be played on, there is no such decision, or an alternative is not legal.
    """
    (chips,) = play_on_many([Asked(hand, index, tuple(acts), config)], decider, others, abreast=1)
    return chips


class Asked(NamedTuple):
    """A decision, alternatives for it, and how they are played on: the arguments of :func:`play_on`."""

    hand: Hand
    number: int
    acts: tuple[Act, ...]
    config: PlayoutConfig


def play_on_many(
    asked: Sequence[Asked], decider: Agent, others: Sequence[Agent], *, abreast: int = ABREAST
) -> list[np.ndarray]:
    """As :func:`play_on` of each decision, with all playouts side by side, so that a model answers in batches.

    Args:
        asked: decisions of one game; what their cards and draws are does not depend on what is played beside them.
        decider: decides for the same seats from the next decision on.
        others: decide for the others; one is drawn for each seat in each playout.
        abreast: playouts that go on side by side.

    Returns:
        For each decision float64 [acts, N].

    Raises:
        UserError: as :func:`play_on` does, before anything is played.
    """
    values = [np.zeros((len(one.acts), one.config.playouts)) for one in asked]
    seen = [_checked(one) for one in asked]
    places = [
        (which, at, number)
        for which, one in enumerate(asked)
        for at, number in itertools.product(range(len(one.acts)), range(one.config.playouts))
        if one.acts[at].kind is not ActKind.FOLD  # which is worth 0
    ]
    begun = (Playout(asked[which], seen[which], at, number, decider, others) for which, at, number in places)
    for (which, at, number), over in zip(places, side_by_side(begun, abreast)):
        values[which][at, number] = over.won()
    return values


def _checked(asked: Asked) -> Observation:
    """What the player of a decision knew, once its alternatives are known to be legal."""
    hand, index, acts, _ = asked
    seen = seen_at(hand, index)
    for act in acts:
        if not is_legal(act, seen):
            raise UserError(f"hand {hand.hand_id}, decision {index}: {act} is not legal there; take legal alternatives")
    return seen


class Playout:
    """A hand that is played on from an alternative; the attributes are those that lockstep asks for.

    Attributes:
        seen: what the player whose turn it is may know.
        played: the record and what each player won of the whole hand once it is over, None before.
    """

    def __init__(
        self, asked: Asked, before: Observation, alternative: int, number: int, decider: Agent, others: Sequence[Agent]
    ) -> None:
        hand, config = asked.hand, asked.config
        deal, order = _deal(hand, before, number, config), in_hand(hand)
        chosen = _stream(config, number, _WHO).integers(len(others), size=len(deal.holes))
        self._agents = {seat: others[which] for seat, which in zip(order, chosen)} | {before.seat: decider}
        self._hand, self._number, self._config = hand, number, config
        self._rngs: dict[tuple[int, int], np.random.Generator] = {}
        self._steps, _ = come_to(hand, asked.number, deal)
        self.seen, self._before = before, before
        self.played: tuple[Hand, tuple[int, ...]] | None = None
        self._go_on(asked.acts[alternative])

    @property
    def agent(self) -> Agent:
        """Whose turn it is."""
        return self._agents[self.seen.seat]

    @property
    def rng(self) -> np.random.Generator:
        """A street has its own numbers: what was drawn on one before does not shift those of the next."""
        key = (self.seen.seat, self.seen.street)
        return self._rngs.setdefault(key, _stream(self._config, self._number, *key))

    def take(self, answer: Act | Mixed | None, seconds: float) -> None:
        """Go on with an agent's answer to :attr:`seen`; how long it took does not matter here."""
        self._go_on(resolve(drawn(answer, self.rng), self.seen)[0])

    def won(self) -> float:
        """What the player who was asked wins from the decision on, in big blinds, less the luck after all betting."""
        assert self.played is not None
        hand, chips = self.played
        at, rng = in_hand(hand).index(self._before.seat), _stream(self._config, self._number, _LUCK)
        lucky = luck_of(hand, rng, self._config.boards).all_in[at] if _ran_out(hand) else 0.0
        return float(chips[at] - lucky) / hand.big_blind + put_in(self._hand, self._before)

    def _go_on(self, act: Act) -> None:
        try:
            self.seen = as_logged(self._hand, self._steps.send(act))
        except StopIteration as end:
            self.played = end.value


def _deal(hand: Hand, seen: Observation, number: int, config: PlayoutConfig) -> Deal:
    """The cards of a playout: what is seen stays, what is not is dealt."""
    rng, order, told = _stream(config, number, _CARDS), in_hand(hand), logged(hand)
    shown = len(hand.boards[0]) if config.logged and not config.redraw and not number else len(seen.board)
    board, at, each = hand.boards[0][:shown], order.index(seen.seat), hand.game.hole_cards
    kept = [*board, *(seen.cards if config.redraw else [card for held in told.holes for card in held])]
    fresh = draws(rng, live_cards(kept), 1, BOARD - shown + config.redraw * each * len(order))[0].tolist()
    full, rest = (*board, *fresh[: BOARD - shown]), fresh[BOARD - shown :]
    if not config.redraw:
        return Deal(told.holes, full)
    holes = [tuple(rest[each * i : each * (i + 1)]) for i in range(len(order))]
    holes[at] = seen.cards
    return Deal(tuple(holes), full)


def _ran_out(played: Hand) -> bool:
    """Whether public cards came after the last decision."""
    return len(played.boards[0]) == BOARD and not played.streets[-1]


def _stream(config: PlayoutConfig, number: int, use: int, street: int = 0) -> np.random.Generator:
    # numpy takes [a, b] and [a, b, 0] for the same seed: a last number that is never 0 keeps streams apart.
    return np.random.default_rng([config.seed, number, use, street, 1])
