"""What the table makes of an answer to a decision, and what that wins: found once for a decision, and remembered."""

import functools
import hashlib
import json
from typing import NamedTuple

from lqlm.poker import answers
from lqlm.poker.arena.actions import resolve
from lqlm.poker.arena.bots import BOTS, LEAKS
from lqlm.poker.arena.language import intended
from lqlm.poker.arena.observation import Agent, Observation
from lqlm.poker.codec import from_json
from lqlm.poker.record import Act, Hand, HandError

AGENTS: dict[str, Agent] = {**BOTS, **LEAKS}
"""Who can play on, by name."""
_HANDS, _VALUES = 512, 1 << 14


class Place(NamedTuple):
    """A decision of a hand.

    Attributes:
        hand: the record as JSON, with the hole cards of all players.
        number: of the decision in its replay.
    """

    hand: str
    number: int


class Playing(NamedTuple):
    """How a hand is played on from a decision.

    Attributes:
        player: who decides in the same seat from the next decision on, a name of :data:`AGENTS`.
        field: who decides in the others' seats, drawn for each playout and seat.
        playouts: how often.
        redraw: deal the others' cards anew in each playout.
        seed: of cards and draws; every decision has numbers of its own.
    """

    player: str
    field: tuple[str, ...]
    playouts: int
    redraw: bool
    seed: int


class Judged(NamedTuple):
    """What the table makes of a text: a legal decision, and whether the text said something else, or nothing."""

    act: Act
    wrong: bool


@functools.lru_cache(maxsize=_HANDS)
def hand_at(place: Place) -> tuple[Hand, Observation]:
    """The hand of a decision, and what the player knew."""
    from lqlm.poker.arena.playable import seen_at  # it needs pokerkit, which is an optional extra

    hand = from_json(json.loads(place.hand))
    return hand, seen_at(hand, place.number)


def judged(text: str, place: Place) -> Judged:
    """The legal decision that a text counts as, by the rule of :func:`lqlm.poker.arena.actions.resolve`."""
    _, seen = hand_at(place)
    try:
        said = intended(answers.read_answer(text), seen)
    except HandError:
        said = None
    return Judged(*resolve(said, seen))


@functools.lru_cache(maxsize=_VALUES)
def worth(place: Place, act: Act, playing: Playing) -> float:
    """What a legal decision wins from then on, in big blinds: the mean over the playouts; a fold is 0.

    Args:
        place: the decision.
        act: one that is legal there.
        playing: how the hand is played on.
    """
    from lqlm.poker.arena.playout import PlayoutConfig, play_on

    hand, _ = hand_at(place)
    dealt = (hand.holes, hand.boards, hand.streets)  # without names: pseudonyms differ from one selection to the next
    digest = hashlib.blake2b(f"{playing.seed}/{place.number}/{dealt}".encode(), digest_size=8).digest()
    config = PlayoutConfig(playing.playouts, int.from_bytes(digest), playing.redraw)
    player, others = AGENTS[playing.player], [AGENTS[name] for name in playing.field]
    return float(play_on(hand, place.number, [act], player, others, config).mean())
