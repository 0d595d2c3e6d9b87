"""Cards as integers 0..51, their text, and the words of a prompt for a hand."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

RANKS = "23456789TJQKA"
SUITS = "cdhs"
DECK = tuple(rank + suit for rank in RANKS for suit in SUITS)
NUMBERS = {text: number for number, text in enumerate(DECK)}
CATEGORIES = (
    "high card",
    "pair",
    "two pair",
    "three of a kind",
    "straight",
    "flush",
    "full house",
    "four of a kind",
    "straight flush",
)


def card(text: str) -> int:
    """The number of a card, ``4 * rank + suit`` with ranks 2..A and suits c, d, h, s.

    Raises:
        ValueError: when there is no such card.

    >>> card("2c"), card("Ah"), card("As")
    (0, 50, 51)
    """
    try:
        return NUMBERS[text]
    except KeyError:
        raise ValueError(f"{text!r} is no card: write a rank of {RANKS} and a suit of {SUITS}") from None


def cards(text: str) -> tuple[int, ...]:
    """The cards of a text, with or without spaces between them.

    >>> cards("Ah Kd") == cards("AhKd")
    True
    """
    joined = text.replace(" ", "")
    return tuple(card(joined[i : i + 2]) for i in range(0, len(joined), 2))


def text(numbers: Iterable[int], between: str = " ") -> str:
    """The text of cards.

    >>> text([50, 45])
    'Ah Kd'
    """
    return between.join(DECK[number] for number in numbers)


def rank(number: int) -> int:
    """The rank of a card, 0 (deuce) to 12 (ace)."""
    return number // 4


def suit(number: int) -> int:
    """The suit of a card, 0..3 as in ``SUITS``."""
    return number % 4


def hand_class(hole: Sequence[int]) -> str:
    """One of the 169 classes of two hole cards; of more cards (Omaha) the ranks, high to low, and the suits' pattern.

    >>> hand_class(cards("KdAd")), hand_class(cards("9c9h")), hand_class(cards("2s7h"))
    ('AKs', '99', '72o')
    >>> hand_class(cards("As Ks 9h 8h")), hand_class(cards("As Kd 9h 8c"))
    ('AK98-22', 'AK98-1111')
    """
    ranks = "".join(RANKS[rank(number)] for number in sorted(hole, key=rank, reverse=True))
    if len(hole) == 2:
        return ranks if ranks[0] == ranks[1] else ranks + ("s" if suit(hole[0]) == suit(hole[1]) else "o")
    pattern = sorted(Counter(map(suit, hole)).values(), reverse=True)
    return f"{ranks}-{''.join(map(str, pattern))}"


def characteristics(hole: Sequence[int]) -> tuple[str, ...]:
    """What PokerGPT's prompt says of the hole cards (arXiv 2401.06781): suit, high, close.

    suit: two of the same suit; high: a card above nine; close: two ranks less than five apart (a pair is close).

    >>> characteristics(cards("ThAh")), characteristics(cards("2c9d")), characteristics(cards("8c8d"))
    (('suit', 'high', 'close'), (), ('close',))
    """
    pairs = list(itertools.combinations(hole, 2))
    found = {
        "suit": any(suit(a) == suit(b) for a, b in pairs),
        "high": any(rank(number) > RANKS.index("9") for number in hole),
        "close": any(abs(rank(a) - rank(b)) < 5 for a, b in pairs),
    }
    return tuple(word for word, holds in found.items() if holds)


@functools.lru_cache(maxsize=1 << 16)
def canonical(hole: tuple[int, ...], board: tuple[int, ...] = ()) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One hand for all that differ only by the names of suits, or by the order of hole cards or of the flop.

    Of the 24 ways to name the suits it takes the one whose cards, hole cards and flop from high to low, turn and river
    in their places, are the greatest; 1,326 pairs of hole cards become the 169 classes.

    Args:
        hole: the player's cards.
        board: 0, 3, 4 or 5 public cards.

    >>> mine, flop = canonical(cards("5d Qh"), cards("2h 7c 9d"))
    >>> text(mine), text(flop)
    ('Qs 5h', '9h 7d 2s')
    """
    return max(_named(hole, board, names) for names in itertools.permutations(range(4)))


def _named(hole: Sequence[int], board: Sequence[int], names: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    mine, shared = ([4 * rank(number) + names[suit(number)] for number in part] for part in (hole, board))
    return tuple(sorted(mine, reverse=True)), (*sorted(shared[:3], reverse=True), *shared[3:])


def category(five: Sequence[int]) -> int:
    """The category of at most five cards, an index into ``CATEGORIES``.

    >>> CATEGORIES[category(cards("Ah 2d 3c 4s 5h"))], CATEGORIES[category(cards("Ah Ad"))]
    ('straight', 'pair')
    """
    counts = [*sorted(Counter(map(rank, five)).values(), reverse=True), 0]
    flush = len(five) == 5 and len(set(map(suit, five))) == 1
    straight = len(five) == 5 and counts[0] == 1 and _runs(sorted(map(rank, five)))
    if flush or straight:
        return 8 if flush and straight else 5 if flush else 4
    if counts[0] >= 3:
        return 7 if counts[0] == 4 else 6 if counts[1] == 2 else 3
    return 2 if counts[:2] == [2, 2] else 1 if counts[0] == 2 else 0


def _runs(ranks: list[int]) -> bool:
    return ranks[-1] - ranks[0] == 4 or ranks == [0, 1, 2, 3, 12]


def best_category(hole: Sequence[int], board: Sequence[int], from_hole: int | None = None) -> int:
    """The best category of five of these cards, an index into ``CATEGORIES``.

    Args:
        hole: the player's cards.
        board: 0, 3, 4 or 5 public cards.
        from_hole: how many hole cards are to be used, two in Omaha; None for any number.

    >>> CATEGORIES[best_category(cards("AhKh"), cards("Qh Jh 2c Th 2d"))]
    'straight flush'
    """
    if from_hole is None:
        every = [*hole, *board]
        return max(category(five) for five in itertools.combinations(every, min(5, len(every))))
    kept = itertools.product(itertools.combinations(hole, from_hole), itertools.combinations(board, min(3, len(board))))
    return max(category((*mine, *shared)) for mine, shared in kept)
