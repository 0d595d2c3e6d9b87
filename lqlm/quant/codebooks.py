"""Codebooks: the values that codes stand for, all within [-1, 1].

A block of numbers is divided by its largest magnitude and each quotient is replaced by the code of the nearest value.
Weights are held in 2 to 8 bits; the dynamic maps (256 values) also hold the block maxima of a second round and the
states of 8-bit optimizers.
"""

import statistics
from typing import Literal

import numpy as np

Name = Literal["nf4", "fp4", "int4", "nf3", "nf2", "dynamic8"]

NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
"""4-bit NormalFloat: quantiles of N(0, 1), 8 of them negative and one exactly zero (code 7).

Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314, appendix E.
"""


def _decade(steps: int, power: int) -> np.ndarray:
    """Centres of ``steps`` equal parts of [0.1, 1], times ``10**power``."""
    low, high = np.float32(0.1), np.float32(1.0)
    width = float((high - low) / np.float32(steps))
    index = np.arange(steps + 1)
    # Counted from both ends and rounded once, as torch.linspace does: the last bit of the map depends on it.
    left, right = float(low) + width * index, float(high) - width * (steps - index)
    edges = np.where(index < (steps + 1) // 2, left, right).astype(np.float32)
    return np.float32(10.0**power) * ((edges[:-1] + edges[1:]) / np.float32(2))


def dynamic_map(signed: bool = True) -> np.ndarray:
    """8-bit dynamic map: seven decades, each with twice the values of the one below, zero and one.

    The values of decade ``i`` (0..6) are the centres of ``2**i`` equal parts of ``[0.1, 1] * 10**(i - 6)``, with both
    signs; of ``2**(i + 1)`` parts where there is no sign.  Dettmers 2015, https://arxiv.org/abs/1511.04561; Dettmers et
    al. 2021, https://arxiv.org/abs/2110.02861.

    Args:
        signed: for values of both signs, else for those of [0, 1].

    Returns:
        float32 [256], sorted.  Signed: zero has index 127, the ends are -0.99297 and 1.

    >>> float(dynamic_map()[127]), float(dynamic_map(signed=False)[0])
    (0.0, 0.0)
    """
    decades = np.concatenate([_decade(2 ** (i if signed else i + 1), i - 6) for i in range(7)])
    ends = np.array([0.0, 1.0], np.float32)
    return np.sort(np.concatenate([-decades, decades, ends] if signed else [decades, ends]))


def thresholds(codebook: np.ndarray) -> np.ndarray:
    """Values that part neighbours: the place of ``x`` among the values is the number of thresholds strictly below it.

    They are the float32 midpoints.  A tie goes to the lower code of a 4-bit codebook, as in bitsandbytes' chain of
    comparisons; of an 8-bit one to the even code, as in its binary search, which ends on even indices.  The latter is
    had by lowering the midpoint below every even code to the next smaller float.

    Args:
        codebook: float32 [n]; taken in ascending order.

    Returns:
        float32 [n - 1].
    """
    levels = np.sort(codebook)
    middle = (levels[:-1] + levels[1:]) / np.float32(2)
    if len(levels) <= 16:
        return middle
    upper_is_even = np.arange(1, len(levels)) % 2 == 0
    return np.where(upper_is_even, np.nextafter(middle, np.float32(-np.inf)), middle)


def normal_map(bits: int) -> np.ndarray:
    """NormalFloat of b bits: quantiles of N(0, 1), ``2**(b - 1)`` of them not negative, scaled to end at -1 and 1.

    ``ppf`` of equal steps between 0.5 and 0.9677083, as in QLoRA (appendix E), LoftQ (arXiv:2310.08659) and LQ-LoRA
    (arXiv:2311.12023); one half of the values and the positive end share the zero.

    Args:
        bits: 2 or more.

    Returns:
        float32 [2**bits], sorted; zero has index ``2**(bits - 1) - 1``.

    >>> print(normal_map(2).round(4))
    [-1.      0.      0.3379  1.    ]
    """
    half = 2 ** (bits - 1)
    positive = _NORMAL.inv_cdf
    above = [positive(p) for p in np.linspace(_OFFSET, 0.5, half + 1)[:-1]]
    below = [-positive(p) for p in np.linspace(_OFFSET, 0.5, half)[:-1]]
    values = np.sort(np.array([*below, 0.0, *above]))
    return (values / values[-1]).astype(np.float32)


_NORMAL, _OFFSET = statistics.NormalDist(), 0.9677083

FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / np.float32(12)
"""4-bit float of bitsandbytes, by code: a sign, two bits of exponent, one of mantissa; codes 0 and 8 are both zero."""

INT4 = np.array([*range(-7, 1), *range(8)], np.float32) / np.float32(7)
"""Symmetric 4-bit integers; codes 7 and 8 are both zero."""

CODEBOOKS: dict[str, np.ndarray] = {
    "nf4": NF4,
    "fp4": FP4,
    "int4": INT4,
    "nf3": normal_map(3),
    "nf2": normal_map(2),
    "dynamic8": dynamic_map(),
}
"""Values by code, float32 [2**bits], of every format that weights are held in."""


def bits_of(name: str) -> int:
    """Bits of one code: 2, 3, 4 or 8.

    >>> bits_of("nf3")
    3
    """
    return len(CODEBOOKS[name]).bit_length() - 1


def in_order(codebook: np.ndarray) -> np.ndarray:
    """Codes by ascending value; of equal values the lower code first.

    Returns:
        uint8 [n].
    """
    return np.argsort(codebook, kind="stable").astype(np.uint8)
