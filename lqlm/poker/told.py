"""What may be told of a decision besides what is to be seen: all of it computed from the public state and own cards.

The same decision is told the same, in training and at the table: what is drawn depends on the cards alone.
"""

import dataclasses
import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.assumed import USUAL, Assumption, assumed_ranges, sampled_shares, weights_of
from lqlm.poker.arena.showdowns import equities_against_one
from lqlm.poker.cards import CATEGORIES, best_category, hand_class, rank
from lqlm.poker.draws import Draws, find_draws
from lqlm.poker.record import ActKind, Game, Hand
from lqlm.poker.replay import Decision, to_win

NAMES = ("equity", "range-equity", "pot-odds", "draws", "class", "spot", "habits")
"""What can be asked for; habits are other players' and need the hands before; draws are told in hold'em alone."""
SAMPLES = 1000
"""Random deals for an equity; the standard error is below 1.6 percent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    """Where a decision stands.

    Attributes:
        live: opponents who have not folded.
        behind: those of them who act after this seat on later streets and have chips.
        raises: bets and raises on this street so far.
        call: what a call costs, in the amounts of the prompt.
    """

    live: int
    behind: int
    raises: int
    call: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """What may be told besides.

    Attributes:
        equity: percent, against one random hand; None where a low hand can win half.
        pot_odds: percent.
        outs: cards that improve the hand.
        draws: their names.
        style: to play in.
        made: the class of the hole cards, later what they make with the board.
        spot: where the decision stands.
        range_equity: percent, against everyone who is in, with hands of the ranges that they are taken to hold; None as
            for `equity`, and where those ranges leave no deal.
    """

    equity: int | None = None
    pot_odds: int | None = None
    outs: int | None = None
    draws: tuple[str, ...] = ()
    style: str = ""
    made: str = ""
    spot: Spot | None = None
    range_equity: int | None = None


def check_names(names: Sequence[str]) -> None:
    """Refuse what cannot be told.

    Raises:
        UserError: naming it.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(f"features: {name!r} is not known; choose among {', '.join(NAMES)}")


def features_of(
    hand: Hand,
    decision: Decision,
    cards: Sequence[int],
    names: Sequence[str],
    call: Decimal,
    style: str = "",
    against: Assumption = USUAL,
) -> Features:
    """The features of a decision.

    Args:
        hand: the record; of it only what came before the decision is used.
        decision: one of its replay.
        cards: of the player who decides.
        names: which, among :data:`NAMES`.
        call: what a call costs, as the prompt writes it.
        style: a request, as it stands.
        against: what the others are taken to hold, for an equity against ranges.
    """
    found = find(tuple(cards), decision.board) if "draws" in names and _has_draws(hand, decision) else None
    price, prize = Decimal(decision.legal.call), Decimal(to_win(hand, decision))
    return Features(
        equity=equity(cards, decision.board) if "equity" in names and hand.game.high_only else None,
        pot_odds=pot_odds(price, prize) if "pot-odds" in names else None,
        outs=found.count if found else None,
        draws=found.names if found else (),
        style=style,
        made=made_hand(cards, decision.board) if "class" in names else "",
        spot=spot_of(hand, decision, call) if "spot" in names else None,
        range_equity=range_equity(hand, decision, cards, against) if "range-equity" in names else None,
    )


def _has_draws(hand: Hand, decision: Decision) -> bool:
    return hand.game is Game.HOLDEM and len(decision.board) in (3, 4)


@functools.lru_cache(maxsize=1 << 16)
def find(cards: tuple[int, ...], board: tuple[int, ...]) -> Draws:
    """:func:`lqlm.poker.draws.find_draws`, kept."""
    return find_draws(cards, board)


def equity(cards: Sequence[int], board: Sequence[int], samples: int = SAMPLES) -> int:
    """Percent of a pot that cards win from one random hand; the same cards in any order give the same number.

    Args:
        cards: own hole cards.
        board: public cards.
        samples: random deals.
    """
    key = _key(cards, board, samples)
    found = _KNOWN.get(key)
    return round(100 * (_worked_out([key])[key] if found is None else found))


def range_equity(
    hand: Hand, decision: Decision, cards: Sequence[int], against: Assumption, samples: int = SAMPLES
) -> int | None:
    """Percent of a pot that cards win from everyone who is in, whose hands are of the ranges of an assumption.

    Args:
        hand: the record; of it only what came before the decision is used.
        decision: one of its replay.
        cards: of the player who decides.
        against: what the others are taken to hold.
        samples: random deals; they follow from cards and ranges alone.

    Returns:
        None where a low hand can win half, and where the ranges leave no deal beside the cards.
    """
    if not hand.game.high_only:
        return None
    ranges = tuple(sorted(assumed_ranges(hand, decision, against)))
    return _range_equity(_key(cards, decision.board, samples), ranges)


@functools.lru_cache(maxsize=1 << 16)
def _range_equity(key: "_Key", ranges: tuple[str, ...]) -> int | None:
    cards, board, samples = key
    try:
        shares = sampled_shares(cards, board, weights_of(ranges), _rng(key), samples)
    except UserError:  # the ranges leave no deal
        return None
    return round(100 * float(shares.mean()))


def know_equities(asked: Iterable[tuple[Sequence[int], Sequence[int]]], samples: int = SAMPLES) -> None:
    """Work out what :func:`equity` will be asked for, all at once: the same numbers in a fraction of the time.

    Args:
        asked: own hole cards and public cards, any number of them.
        samples: random deals.
    """
    missing = [key for cards, board in asked if (key := _key(cards, board, samples)) not in _KNOWN]
    _worked_out(list(dict.fromkeys(missing)))


_Key = tuple[tuple[int, ...], tuple[int, ...], int]
_KNOWN: dict[_Key, float] = {}
_MOST_KNOWN = 1 << 18


def _key(cards: Sequence[int], board: Sequence[int], samples: int) -> _Key:
    return tuple(sorted(cards)), tuple(sorted(board)), samples


def _worked_out(keys: Sequence[_Key]) -> dict[_Key, float]:
    """Equities, which are remembered; hands of as many cards and as many deals are evaluated together."""
    groups, found = defaultdict[tuple[int, int], list[_Key]](list), dict[_Key, float]()
    for key in keys:
        groups[len(key[0]), key[2]].append(key)
    for (_, samples), group in groups.items():
        holes, boards, _ = zip(*group)
        found |= zip(group, equities_against_one(holes, boards, [_rng(key) for key in group], samples))
    if len(_KNOWN) + len(found) > _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN.update(found)
    return found


def _rng(key: _Key) -> np.random.Generator:
    """The draws follow from a digest of the cards."""
    digest = hashlib.blake2b(bytes(key[0]) + b"|" + bytes(key[1]), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest))


def pot_odds(to_call: Decimal, pot: Decimal) -> int:
    """Percent of the pot after a call that the call costs, ``100 c / (p + c)``, rounded.

    >>> pot_odds(Decimal(1), Decimal(3))
    25
    """
    return int((100 * to_call / (pot + to_call)).to_integral_value()) if to_call else 0


def made_hand(cards: Sequence[int], board: Sequence[int]) -> str:
    """One of the 169 classes before the flop; later the category of the hand, a pair by its place on the board.

    Of Omaha's cards the ranks and the suits' pattern; later the category of the best hand that uses two of them.

    >>> from lqlm.poker.cards import cards
    >>> flop = cards("Kd7c2s")
    >>> made_hand(cards("AhKh"), ()), made_hand(cards("AhKh"), flop), made_hand(cards("8h8d"), flop)
    ('AKs', 'top pair', 'underpair')
    >>> made_hand(cards("AhAdAsKc"), ()), made_hand(cards("AhAdAsKc"), flop)
    ('AAAK-1111', 'pair')
    """
    if not board:
        return hand_class(cards)
    if len(cards) > 2:
        return CATEGORIES[best_category(cards, board, 2)]
    best = CATEGORIES[best_category(cards, board)]
    return _pair(list(map(rank, cards)), list(map(rank, board))) if best == "pair" else best


def _pair(mine: list[int], shared: list[int]) -> str:
    if len(set(shared)) < len(shared):
        return "board pair"
    if len(set(mine)) < len(mine):
        return "overpair" if mine[0] > max(shared) else "underpair"
    own = max(set(mine) & set(shared))
    return "top pair" if own == max(shared) else "low pair" if own == min(shared) else "middle pair"


def spot_of(hand: Hand, decision: Decision, call: Decimal) -> Spot:
    """Where a decision stands, from what came before it."""
    order = list(decision.stacks)
    others = [seat for seat in decision.live if seat != decision.seat]
    after = [seat for seat in order[order.index(decision.seat) + 1 :] if seat in others and decision.stacks[seat]]
    left = decision.index - sum(map(len, hand.streets[: decision.street]))
    acts = hand.streets[decision.street][:left] if decision.street < len(hand.streets) else ()
    raises = sum(act.kind in (ActKind.BET, ActKind.RAISE) for act in acts)
    return Spot(len(others), len(after), raises, call)
