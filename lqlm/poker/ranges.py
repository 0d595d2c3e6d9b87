"""Ranges of hold'em hands as text, and as weights over the 1326 pairs in the order of `lqlm.poker.tables.pairs`.

A range is a list with commas:

=========== ==================================================================
AA, AKs, QJo one class; AK without a letter is both kinds
77+          that pair and those above it
AJs+         AJs, AQs, AKs: the kicker goes up to below the high card
TT-77        the pairs from one to the other
A5s-A2s      one high card, the kickers from one to the other
AsKh         one hand
15%          the best 15% of the 1326 hands by their equity against a random hand
random       every hand
AKo:0.5      any of these with a weight; what is named twice has the greater weight
=========== ==================================================================
"""

import functools
import re
from collections.abc import Iterator

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.cards import RANKS, card, hand_class
from lqlm.poker.tables import PAIR_COUNT, pair_index, pairs

_ORDER = """
AA KK QQ JJ TT 99 88 AKs 77 AQs AJs AKo ATs AQo AJo KQs 66 A9s ATo KJs A8s KTs KQo A7s A9o KJo 55
QJs K9s A6s A5s A8o KTo QTs A4s A7o K8s A3s QJo K9o A5o A6o Q9s K7s JTs A2s QTo 44 A4o K6s Q8s K8o
A3o K5s J9s Q9o JTo K7o A2o K4s Q7s K6o K3s T9s J8s 33 Q6s Q8o K5o K2s J9o Q5s J7s T8s K4o Q4s Q7o
T9o J8o K3o Q6o Q3s 98s T7s J6s K2o 22 Q2s Q5o J5s T8o J7o Q4o J4s 97s T6s J3s Q3o 98o 87s T7o J6o
96s J2s Q2o T5s J5o T4s 97o 86s J4o T6o T3s 95s 76s J3o 87o T2s 85s 96o J2o T5o 94s 75s T4o 93s 86o
65s 84s 95o T3o 92s 76o 74s T2o 85o 54s 64s 83s 94o 75o 82s 73s 93o 65o 53s 63s 84o 92o 43s 74o 54o
72s 64o 52s 62s 83o 42s 82o 73o 53o 63o 32s 43o 72o 52o 62o 42o 32o
"""
STRONGEST_FIRST = tuple(_ORDER.split())
"""The 169 classes by their equity against one random hand, from 4 million deals of each; neighbours may be tied."""

CLASS = re.compile(r"([2-9TJQKA])([2-9TJQKA])([so]?)")


@functools.cache
def pair_classes() -> np.ndarray:
    """The class of each of the 1326 pairs, as text [1326]: 6 of a pair, 4 suited, 12 offsuit.

    >>> print(pair_classes()[[0, 6, -1]])
    ['22' '32s' 'AA']
    """
    return np.array([hand_class(pair) for pair in pairs().tolist()])


def _split(text: str, whole: str) -> tuple[int, int, str]:
    """High rank, low rank and the letter of a class."""
    found = CLASS.fullmatch(text)
    ranks = sorted((RANKS.index(r) for r in found.group(1, 2)), reverse=True) if found else [0, 0]
    if not found or (ranks[0] == ranks[1] and found.group(3)):
        raise UserError(f"range {whole!r}: {text!r} is no hand; write AA, AKs, AKo, AK, 77+, A5s-A2s, AsKh or 15%")
    return ranks[0], ranks[1], found.group(3)


def _names(high: int, low: int, letter: str) -> list[str]:
    text = RANKS[high] + RANKS[low]
    return [text] if high == low else [text + kind for kind in (letter or "so")]


def _classes(text: str, whole: str) -> Iterator[str]:
    """The classes of one part without weight."""
    if text.endswith("+"):
        high, low, letter = _split(text[:-1], whole)
        ends = (
            [(rank, rank) for rank in range(low, len(RANKS))] if high == low else [(high, r) for r in range(low, high)]
        )
    elif "-" in text:
        first, last = (_split(end.strip(), whole) for end in text.split("-", 1))
        high, low, letter = first
        paired = first[0] == first[1]
        if first[2] != last[2] or paired != (last[0] == last[1]) or (not paired and first[0] != last[0]):
            raise UserError(f"range {whole!r}: {text!r} has ends of two kinds; write TT-77 or A5s-A2s")
        span = range(min(low, last[1]), max(low, last[1]) + 1)
        ends = [(rank, rank) if paired else (high, rank) for rank in span]
    else:
        high, low, letter = _split(text, whole)
        ends = [(high, low)]
    for one, other in ends:
        yield from _names(one, other, letter)


def top_fraction(fraction: float) -> np.ndarray:
    """The best hands, so many of the 1326; the class at the edge has the weight that makes the sum exact.

    Args:
        fraction: in 0..1.

    Returns:
        float32 [1326].

    >>> print(top_fraction(0.5).sum())
    663.0
    """
    weights, left = np.zeros(PAIR_COUNT, np.float32), fraction * PAIR_COUNT
    for name in STRONGEST_FIRST:
        members = np.flatnonzero(pair_classes() == name)
        weights[members] = np.clip(left / len(members), 0.0, 1.0)
        left -= len(members)
    return weights


def _weights(text: str, whole: str) -> np.ndarray:
    """The weights of one part, each 0 or 1 unless it is a percentage."""
    if text == "random":
        return np.ones(PAIR_COUNT, np.float32)
    if text.endswith("%"):
        percent = _number(text[:-1], 100.0, whole)
        return top_fraction(percent / 100)
    weights = np.zeros(PAIR_COUNT, np.float32)
    if re.fullmatch(r"([2-9TJQKA][cdhs]){2}", text) and text[:2] != text[2:]:
        weights[pair_index(card(text[:2]), card(text[2:]))] = 1.0
    else:
        weights[np.isin(pair_classes(), list(_classes(text, whole)))] = 1.0
    return weights


def _number(text: str, most: float, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise UserError(f"range {whole!r}: {text!r} is no number between 0 and {most:g}")
    return value


def parse_range(text: str) -> np.ndarray:
    """The weights of a range.

    Args:
        text: as above.

    Returns:
        float32 [1326], each in 0..1.

    Raises:
        UserError: for a part that is not one of the forms, with the part.

    >>> int(parse_range("22+, AJs+, KQo, A5s-A2s").sum())  # 13 * 6 + 3 * 4 + 12 + 4 * 4
    118
    """
    weights = np.zeros(PAIR_COUNT, np.float32)
    for part in filter(None, (part.strip() for part in text.split(","))):
        hands, colon, factor = part.partition(":")
        one = _weights(hands.strip(), text) * np.float32(_number(factor, 1.0, text) if colon else 1.0)
        weights = np.maximum(weights, one)
    if not weights.any():
        raise UserError(f"range {text!r}: no hand is in it; write for example 22+, AJs+, KQo")
    return weights
