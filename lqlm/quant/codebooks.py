"""Codebooks: the values that codes stand for, all within [-1, 1] and sorted.

A block of numbers is divided by its largest magnitude and each quotient is replaced by the index of the nearest value
of a codebook.  NF4 (16 values) holds weights, the dynamic map (256 values) holds the block maxima of a second round
and the states of 8-bit optimizers.
"""

import numpy as np

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


def dynamic_map() -> np.ndarray:
    """Signed 8-bit dynamic map: seven decades, each with twice the values of the one below, zero and one.

    The values of decade ``i`` (0..6) are the centres of ``2**i`` equal parts of ``[0.1, 1] * 10**(i - 6)``, with both
    signs.  Dettmers 2015, https://arxiv.org/abs/1511.04561; Dettmers et al. 2021, https://arxiv.org/abs/2110.02861.

    Returns:
        float32 [256], sorted; zero has index 127, the ends are -0.99297 and 1.

    >>> float(dynamic_map()[127]), float(dynamic_map()[255])
    (0.0, 1.0)
    """
    decades = np.concatenate([_decade(2**i, i - 6) for i in range(7)])
    ends = np.array([0.0, 1.0], np.float32)
    return np.sort(np.concatenate([-decades, decades, ends]))


def thresholds(codebook: np.ndarray) -> np.ndarray:
    """Values that part neighbouring codes: ``code(x)`` is the number of thresholds strictly below ``x``.

    They are the float32 midpoints.  A tie goes to the lower code of a 4-bit codebook, as in bitsandbytes' chain of
    comparisons; of an 8-bit one to the even code, as in its binary search, which ends on even indices.  The latter is
    had by lowering the midpoint below every even code to the next smaller float.

    Args:
        codebook: float32 [n], sorted.

    Returns:
        float32 [n - 1].
    """
    middle = (codebook[:-1] + codebook[1:]) / np.float32(2)
    if len(codebook) <= 16:
        return middle
    upper_is_even = np.arange(1, len(codebook)) % 2 == 0
    return np.where(upper_is_even, np.nextafter(middle, np.float32(-np.inf)), middle)
