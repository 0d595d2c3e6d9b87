"""What a decision is worth, by playing on from it: every alternative on the same cards, by the same players.

A playout deals the cards that are still to come, takes an alternative, and lets agents finish the hand at the table of
:mod:`lqlm.poker.arena.table`.  All alternatives share the cards and the random numbers of each playout (duplicate
deals), so that most of the luck cancels in their differences, and where nobody could bet any more, the mean over the
boards that could come takes the place of the one that came (:mod:`lqlm.poker.arena.luck`).
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.actions import is_legal, resolve
from lqlm.poker.arena.luck import luck_of
from lqlm.poker.arena.observation import Agent, Observation
from lqlm.poker.arena.recording import opening
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.showdowns import BOARD, draws, live_cards
from lqlm.poker.arena.table import Chairs, Deal, drawn, hand_in_steps
from lqlm.poker.record import Act, ActKind, Game, Hand, Limit, Post, PostKind, known_cards, player_of
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
    seen = seen_at(hand, index)
    for act in acts:
        if not is_legal(act, seen):
            raise UserError(f"hand {hand.hand_id}, decision {index}: {act} is not legal there; take legal alternatives")
    deals = [_deal(hand, seen, number, config) for number in range(config.playouts)]
    chips = np.zeros((len(acts), len(deals)))
    for (at, act), (number, deal) in itertools.product(enumerate(acts), enumerate(deals)):
        chips[at, number] = _worth(hand, seen, act, decider, others, deal, number, config)
    return chips


def put_in(hand: Hand, seen: Observation) -> float:
    """What the player who decides has put in before, in big blinds: what a fold costs of the whole hand."""
    start = {seat.number: seat.stack for seat in hand.seats}
    return (start[seen.seat] - seen.stacks[seen.seat]) / hand.big_blind


def seen_at(hand: Hand, index: int) -> Observation:
    """What the player of a decision knew.

    Raises:
        UserError: when the hand cannot be played on, or there is no such decision.
    """
    if reason := check_playable(hand):
        raise UserError(reason)
    return _at(hand, index, _logged(hand))[1]


def check_playable(hand: Hand) -> str:
    """Why a hand cannot be played on, in one line; nothing when it can.

    It can when the table's rules are its rules: no-limit hold'em or pot-limit Omaha with small and big blind and equal
    antes (no straddles, dead blinds or caps), whatever the stacks are, and when all hole cards are known.
    """
    where, limits = f"hand {hand.hand_id}", {Game.HOLDEM: Limit.NO_LIMIT, Game.OMAHA: Limit.POT_LIMIT}
    if limits.get(hand.game) is not hand.limit or hand.stakes.cap:
        found = f"{hand.game.value} {hand.limit.value}{' with a cap' if hand.stakes.cap else ''}"
        return f"{where} is {found}; only no-limit Hold'em and pot-limit Omaha without a cap can be played on"
    order, known = in_hand(hand), known_cards(hand)
    if unknown := [seat for seat in order if len(known.get(seat, ())) != hand.game.hole_cards]:
        return f"{where}: the cards of seat {unknown[0]} are not known; take logs with all hole cards"
    every = [*hand.boards[0], *(card for seat in order for card in known[seat])]
    if len(set(every)) < len(every):
        return f"{where}: a card is there twice; mend the log"
    if not 2 <= len(order) <= 10:
        return f"{where} has {len(order)} players; the table has 2 to 10"
    try:
        forced = opening(_rules(hand), _stacks(hand), order, [""] * len(order), "").posts
    except UserError as error:
        return f"{where}: {error}"
    if _paid(forced) != _paid(hand.posts):
        return f"{where}: its forced bets are not a small blind, a big blind and equal antes; take other hands"
    return ""


def _paid(posts: Iterable[Post]) -> list[tuple[int, str, int]]:
    return sorted((post.seat, post.kind.value, post.amount) for post in posts)


def _rules(hand: Hand) -> Rules:
    ante = max((post.amount for post in hand.posts if post.kind is PostKind.ANTE), default=0)
    return Rules(hand.game, hand.stakes.small, hand.stakes.big, ante, stack=hand.stakes.big)


def _stacks(hand: Hand) -> tuple[int, ...]:
    of = {seat.number: seat.stack for seat in hand.seats}
    return tuple(of[seat] for seat in in_hand(hand))


def _logged(hand: Hand) -> Deal:
    """The cards of the log, any others for public ones that it lacks."""
    holes = [known_cards(hand)[seat] for seat in in_hand(hand)]
    rest = live_cards([*hand.boards[0], *(card for held in holes for card in held)])
    return Deal(tuple(holes), (*hand.boards[0], *rest.tolist())[:BOARD])


def _deal(hand: Hand, seen: Observation, number: int, config: PlayoutConfig) -> Deal:
    """The cards of a playout: what is seen stays, what is not is dealt."""
    rng, order, logged = _stream(config, number, _CARDS), in_hand(hand), _logged(hand)
    shown = len(hand.boards[0]) if config.logged and not config.redraw and not number else len(seen.board)
    board, at, each = hand.boards[0][:shown], order.index(seen.seat), hand.game.hole_cards
    kept = [*board, *(seen.cards if config.redraw else [card for held in logged.holes for card in held])]
    fresh = draws(rng, live_cards(kept), 1, BOARD - shown + config.redraw * each * len(order))[0].tolist()
    full, rest = (*board, *fresh[: BOARD - shown]), fresh[BOARD - shown :]
    if not config.redraw:
        return Deal(logged.holes, full)
    holes = [tuple(rest[each * i : each * (i + 1)]) for i in range(len(order))]
    holes[at] = seen.cards
    return Deal(tuple(holes), full)


_Steps = Generator[Observation, Act, tuple[Hand, tuple[int, ...]]]


def _at(hand: Hand, index: int, deal: Deal) -> tuple[_Steps, Observation]:
    """A hand at the table that has come to a decision."""
    names = player_of(hand)
    chairs = Chairs(_stacks(hand), tuple(in_hand(hand)), tuple(names[seat] for seat in in_hand(hand)))
    steps = hand_in_steps(_rules(hand), chairs, deal, hand.hand_id)
    before = [act for acts in hand.streets for act in acts]
    if not 0 <= index < len(before):
        raise UserError(f"hand {hand.hand_id} has {len(before)} decisions; there is no number {index}")
    try:
        seen = next(steps)
        for act in before[:index]:
            seen = steps.send(act)
    except (ValueError, StopIteration) as error:
        raise UserError(f"hand {hand.hand_id} cannot be replayed to decision {index}: {error}") from error
    if seen.seat != before[index].seat:
        raise UserError(f"hand {hand.hand_id}: decision {index} is not seat {before[index].seat}'s by the rules")
    return steps, _as_logged(hand, seen)


def _as_logged(hand: Hand, seen: Observation) -> Observation:
    """With the log's own opening, so that its currency is seen too."""
    before = dataclasses.replace(
        hand, holes=(), streets=((),), boards=((),), returned=None, results=(), rake=0, finishes=()
    )
    return dataclasses.replace(seen, opening=before)


def _worth(
    hand: Hand,
    seen: Observation,
    act: Act,
    decider: Agent,
    others: Sequence[Agent],
    deal: Deal,
    number: int,
    config: PlayoutConfig,
) -> float:
    if act.kind is ActKind.FOLD:
        return 0.0
    steps, _ = _at(hand, seen.index, deal)
    chosen = _stream(config, number, _WHO).integers(len(others), size=len(deal.holes))
    agents = {seat: others[which] for seat, which in zip(in_hand(hand), chosen)} | {seen.seat: decider}
    played, chips = _finish(hand, steps, act, agents, number, config)
    at = in_hand(hand).index(seen.seat)
    lucky = luck_of(played, _stream(config, number, _LUCK), config.boards).all_in[at] if _ran_out(played) else 0.0
    return float(chips[at] - lucky) / hand.big_blind + put_in(hand, seen)


def _finish(
    hand: Hand, steps: _Steps, act: Act, agents: Mapping[int, Agent], number: int, config: PlayoutConfig
) -> tuple[Hand, tuple[int, ...]]:
    """Take an alternative and play to the end: the record, and what each player won of the whole hand."""
    rngs: dict[tuple[int, int], np.random.Generator] = {}
    try:
        now = _as_logged(hand, steps.send(act))
        while True:
            # A street has its own numbers: what was drawn on one before does not shift those of the next.
            key = (now.seat, now.street)
            rng = rngs.setdefault(key, _stream(config, number, *key))
            taken, _ = resolve(drawn(agents[now.seat].act(now, rng), rng), now)
            now = _as_logged(hand, steps.send(taken))
    except StopIteration as end:
        return end.value


def _ran_out(played: Hand) -> bool:
    """Whether public cards came after the last decision."""
    return len(played.boards[0]) == BOARD and not played.streets[-1]


def _stream(config: PlayoutConfig, number: int, use: int, street: int = 0) -> np.random.Generator:
    # numpy takes [a, b] and [a, b, 0] for the same seed: a last number that is never 0 keeps streams apart.
    return np.random.default_rng([config.seed, number, use, street, 1])
