"""What a prompt shows: a decision seen from one seat, in the amounts that the prompt writes."""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal

from lqlm.poker.arena.assumed import USUAL, Assumption
from lqlm.poker.cards import best_category, canonical
from lqlm.poker.profiles import Profile
from lqlm.poker.record import Act, ActKind, Game, Hand, HandError, Limit, PostKind, player_of
from lqlm.poker.replay import Decision, Legal
from lqlm.poker.told import Features, check_names, features_of

STAGES = {0: "PREFLOP", 3: "FLOP", 4: "TURN", 5: "RIVER"}
CHOICES = (0, 1, 3, 6, 10, 20, 50, 100)
"""Bets to choose from, in big blinds (PokerGPT)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """An action as a prompt shows it: street 0..3, one of :data:`WORDS`, and its amount (0 for none)."""

    street: int
    word: str
    amount: Decimal = Decimal(0)


WORDS = ("ante", "post", "fold", "check", "call", "bet", "raise")


@dataclasses.dataclass(frozen=True, slots=True)
class Habits:
    """A player's statistics in percent, None where there is nothing to divide by, and from how many hands."""

    hands: int
    vpip: int | None = None
    pfr: int | None = None
    aggression: int | None = None
    fold_to_raise: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A seat as others see it."""

    seat: int
    money: Decimal
    actions: tuple[Said, ...] = ()
    habits: Habits | None = None

    @property
    def discard(self) -> bool:
        """Whether the player has folded."""
        return any(said.word == "fold" for said in self.actions)


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """One decision from one seat.

    ``order``: seats from the left of the button on; ``small_blind``: its seat, 0 for none; ``views``: every other seat
    in that order; ``legal``: words that may be answered; ``choices``: amounts for a bet or the total of a raise;
    ``all_in``: the total of a bet of everything, 0 when none is allowed.
    """

    game: Game
    limit: Limit
    currency: str
    small: Decimal
    big: Decimal
    order: tuple[int, ...]
    small_blind: int
    me: int
    cards: tuple[int, ...]
    board: tuple[int, ...]
    money: Decimal
    actions: tuple[Said, ...]
    views: tuple[View, ...]
    pot: Decimal
    legal: tuple[str, ...]
    choices: tuple[Decimal, ...] = ()
    all_in: Decimal = Decimal(0)
    features: Features = Features()

    @property
    def stage(self) -> str:
        """PREFLOP, FLOP, TURN or RIVER."""
        return STAGES[len(self.board)]

    @property
    def rank(self) -> int:
        """The category of my hand so far, an index into ``cards.CATEGORIES``."""
        if self.game is Game.HOLDEM:
            return best_category(self.cards, self.board)
        return best_category(self.cards, self.board, 2) if self.board else best_category(self.cards, (), 2)


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """What a prompt shows, and how.

    Attributes:
        round_up: amounts to multiples of the big blind, as in the paper.
        choices: bets to choose from, in big blinds.
        features: what is told besides, of :data:`lqlm.poker.told.NAMES`.
        style: a request such as "aggressive".
        against: what the others are taken to hold, for the feature ``range-equity``.
        canonical: cards as :func:`lqlm.poker.cards.canonical` has them, not as dealt.
    """

    round_up: bool = True
    choices: tuple[int, ...] = CHOICES
    features: tuple[str, ...] = ()
    style: str = ""
    against: Assumption = USUAL
    canonical: bool = False

    def __post_init__(self) -> None:
        """Refuse features that are not known."""
        check_names(self.features)


def state_of(
    hand: Hand,
    decision: Decision,
    cards: tuple[int, ...],
    config: ViewConfig,
    features: Features | None = None,
    profiles: Mapping[int, Profile] | None = None,
) -> State:
    """The state of a decision from the seat that takes it.

    Args:
        hand: the record.
        decision: one of its replay.
        cards: of the player who decides.
        config: rounding, bet choices, and what is told besides.
        features: given values; None for those of ``config``.
        profiles: seat -> profile of those whose habits are to be shown.

    Raises:
        HandError: when the cards are not as many as the game has.
    """
    if len(cards) != hand.game.hole_cards:
        raise HandError(f"{hand.game} has {hand.game.hole_cards} hole cards, not {len(cards)}")
    amount = _amounts(hand, config)
    said = _said(hand, decision, amount)
    if features is None:
        to_call = amount(decision.legal.call)
        features = features_of(hand, decision, cards, config.features, to_call, config.style, config.against)
    held, board = canonical(cards, decision.board) if config.canonical else (cards, decision.board)
    order = tuple(decision.stacks)
    habits = {seat: _habits(profile) for seat, profile in (profiles or {}).items()}
    others = (seat for seat in order if seat != decision.seat)
    views = tuple(View(seat, amount(decision.stacks[seat]), said[seat], habits.get(seat)) for seat in others)
    legal = decision.legal
    return State(
        game=hand.game,
        limit=hand.limit,
        currency=hand.money.currency,
        small=_exact(hand, small_blind(hand)),
        big=_exact(hand, hand.big_blind),
        order=order,
        small_blind=next((post.seat for post in hand.posts if post.kind is PostKind.SMALL), 0),
        me=decision.seat,
        cards=held,
        board=board,
        money=amount(decision.stacks[decision.seat]),
        actions=said[decision.seat],
        views=views,
        pot=amount(decision.pot),
        legal=legal_words(decision.legal, decision.bet),
        choices=tuple(_exact(hand, c) for c in choices(hand, decision, config)),
        all_in=_exact(hand, legal.most) if is_all_in(decision) else Decimal(0),
        features=features,
    )


def small_blind(hand: Hand) -> int:
    """The small blind; in fixed limit, whose stakes are bets, the largest that was posted, or half the big one."""
    if hand.limit is not Limit.FIXED:
        return hand.stakes.small
    return max((post.amount for post in hand.posts if post.kind is PostKind.SMALL), default=hand.big_blind // 2)


def _exact(hand: Hand, amount: int) -> Decimal:
    return Decimal(amount).scaleb(-hand.money.decimals)


def _amounts(hand: Hand, config: ViewConfig):  # type: ignore[no-untyped-def]
    """Amount -> what is shown of it."""
    big = hand.big_blind

    def amount(units: int) -> Decimal:
        return _exact(hand, -(-units // big) * big if config.round_up else units)

    return amount


def legal_words(legal: Legal, bet: int) -> tuple[str, ...]:
    """The words that may be answered.

    >>> legal_words(Legal(0, 2, 9), 0)
    ('check', 'bet')
    """
    words = ["fold", "call"] if legal.call else ["check"]
    return (*words, "raise" if bet else "bet") if legal.most else tuple(words)


def choices(hand: Hand, decision: Decision, config: ViewConfig) -> tuple[int, ...]:
    """The totals to choose from for a bet or a raise.

    They are those choices that are allowed, else the least bet; and the greatest one where that is not all-in, such as
    the whole pot in pot limit.
    """
    legal = decision.legal
    if not legal.most:
        return ()
    every = [blinds * hand.big_blind for blinds in config.choices]
    inside = tuple(total for total in every if legal.least <= total <= legal.most) or (legal.least,)
    return inside if is_all_in(decision) or legal.most in inside else (*inside, legal.most)


def is_all_in(decision: Decision) -> bool:
    """Whether a bet of everything is allowed."""
    own = decision.bets[decision.seat] + decision.stacks[decision.seat]
    return decision.legal.most == own > 0


def _habits(profile: Profile) -> Habits:
    return Habits(profile.hands, profile.vpip, profile.pfr, profile.aggression, profile.fold_to_raise)


def _said(hand: Hand, decision: Decision, amount):  # type: ignore[no-untyped-def]
    """Seat -> what it did before the decision."""
    found: dict[int, list[Said]] = {seat: [] for seat in decision.stacks}
    for post in hand.posts:
        found[post.seat].append(Said(0, "ante" if post.kind is PostKind.ANTE else "post", amount(post.amount)))
    left = decision.index
    for street, acts in enumerate(hand.streets):
        for act in acts[:left]:
            found[act.seat].append(Said(street, word_of(act), amount(act.amount)))
        left -= min(left, len(acts))
    return {seat: tuple(said) for seat, said in found.items()}


def word_of(act: Act) -> str:
    """The word of a decision: fold, check, call, bet or raise."""
    return {
        ActKind.FOLD: "fold",
        ActKind.CHECK: "check",
        ActKind.CALL: "call",
        ActKind.BET: "bet",
        ActKind.RAISE: "raise",
    }[act.kind]


def names_of(hand: Hand, profiles: Mapping[str, Profile]) -> dict[int, Profile]:
    """Seat -> profile, of players by name."""
    return {seat: profiles[name] for seat, name in player_of(hand).items() if name in profiles}
