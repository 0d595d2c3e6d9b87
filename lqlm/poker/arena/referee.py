"""pokerkit as the referee: its rules as they are, and its hands evaluated once instead of a dozen times."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

from lqlm.errors import UserError
from lqlm.poker.arena.rules import Rules
from lqlm.poker.cards import DECK
from lqlm.poker.record import Act, ActKind, Game

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import pokerkit
    except ModuleNotFoundError as error:
        raise UserError("the table needs pokerkit: pip install 'lqlm[poker]'") from error

_AUTOMATIC = (
    pokerkit.Automation.ANTE_POSTING,
    pokerkit.Automation.BET_COLLECTION,
    pokerkit.Automation.BLIND_OR_STRADDLE_POSTING,
    pokerkit.Automation.HOLE_CARDS_SHOWING_OR_MUCKING,
    pokerkit.Automation.HAND_KILLING,
    pokerkit.Automation.CHIPS_PUSHING,
    pokerkit.Automation.CHIPS_PULLING,
)
_CARDS = tuple(next(iter(pokerkit.Card.parse(text))) for text in DECK)
_REMEMBERED = 4096


class _Once:
    """A hand whose entry is looked up once; pokerkit asks the same question for each pot and for each comparison."""

    @functools.cached_property
    def entry(self) -> Any:
        return super().entry  # type: ignore[misc]

    @classmethod
    @functools.lru_cache(maxsize=_REMEMBERED)
    def _from_cards(cls, hole: tuple[Any, ...], board: tuple[Any, ...]) -> Any:
        return super().from_game(hole, board)  # type: ignore[misc]

    @classmethod
    def from_game(cls, hole_cards: Any, board_cards: Any = ()) -> Any:
        return cls._from_cards(tuple(pokerkit.Card.clean(hole_cards)), tuple(pokerkit.Card.clean(board_cards)))


class _HoldemHand(_Once, pokerkit.StandardHighHand):
    """Five of seven cards."""


class _Holdem(pokerkit.NoLimitTexasHoldem):
    """No-limit hold'em."""

    hand_types = (_HoldemHand,)


class _OmahaHand(_Once, pokerkit.OmahaHoldemHand):
    """Two of four cards and three of five."""


class _Omaha(pokerkit.PotLimitOmahaHoldem):
    """Pot-limit Omaha."""

    hand_types = (_OmahaHand,)


_GAMES: dict[Game, Any] = {Game.HOLDEM: _Holdem, Game.OMAHA: _Omaha}


def new_state(rules: Rules, stacks: Sequence[int]) -> Any:
    """The state before the cards, players from the left of the button on."""
    blinds = (rules.small, rules.big)
    return _GAMES[rules.game].create_state(_AUTOMATIC, True, rules.ante, blinds, rules.big, tuple(stacks), len(stacks))


def stack_deck(state: Any, cards: Sequence[int]) -> None:
    """Leave only the cards that will be dealt in the deck, the first on top: pokerkit looks through all of it for each.

    Args:
        state: before any card is dealt.
        cards: all that come, the whole board among them.
    """
    state.deck_cards.clear()
    state.deck_cards.extend(_CARDS[card] for card in cards)


def deal_hole(state: Any, player: int, cards: Sequence[int]) -> None:
    """Give a player the hole cards."""
    state.deal_hole([_CARDS[card] for card in cards], player)


def deal_board(state: Any, cards: Sequence[int]) -> None:
    """Burn a card that nobody sees and deal public ones."""
    state.burn_card("??")
    state.deal_board([_CARDS[card] for card in cards])


def take(state: Any, act: Act) -> None:
    """Tell the referee what the player whose turn it is decides."""
    if act.kind is ActKind.FOLD:
        state.fold()
    elif act.kind in (ActKind.CHECK, ActKind.CALL):
        state.check_or_call()
    else:
        state.complete_bet_or_raise_to(act.amount)
