"""Means with intervals: clusters, a bootstrap of clusters, and control variates that leave the mean as it is."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEAST_FOR_A_SLOPE = 50
"""Values for each slope that is fitted; with fewer, a few great pots would decide the slopes: controls are left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95% interval, ``mean +- half``, from so many independent values."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} +- {self.half:.1f}"


@functools.lru_cache(maxsize=256)
def _quantile(freedom: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def mean_interval(values: np.ndarray) -> Estimate:
    """The mean of independent values with Student's interval, ``t s / sqrt(n)``.

    Args:
        values: [n], one for each independent cluster.

    >>> str(mean_interval(np.array([1.0, 2.0, 3.0])))
    '+2.0 +- 2.5'
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), float("inf"), len(values))
    half = _quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(half), len(values))


def without_controls(values: np.ndarray, controls: np.ndarray, folds: int = 10) -> np.ndarray:
    """Values less what controls of mean 0 explain, ``y_i - beta' z_i``, beta fitted on the other folds.

    A value's beta does not depend on it, so that the mean stays what it is (no bias of order 1/n, which a fit on the
    same values has).  With few values nothing is fitted and nothing subtracted.

    Args:
        values: [n] independent.
        controls: [n, terms], of mean 0 each.
        folds: value i is in fold i mod folds.

    Returns:
        float64 [n].
    """
    values, controls = np.asarray(values, np.float64), np.asarray(controls, np.float64)
    fold = np.arange(len(values)) % folds
    out = values.copy()
    for k in range(min(folds, len(values))):
        others = fold != k
        if others.sum() >= LEAST_FOR_A_SLOPE * controls.shape[1]:
            out[~others] -= controls[~others] @ _slopes(values[others], controls[others])
    return out


def _slopes(values: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Least squares of centred values."""
    centred = controls - controls.mean(0)
    return np.linalg.lstsq(centred, values - values.mean(), rcond=None)[0]


def bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator, samples: int = 1000
) -> np.ndarray:
    """The 95% intervals of statistics of sums by drawing whole clusters again, with replacement: expanded percentiles.

    The plain percentiles 2.5 and 97.5 cover too little with few clusters.  The expanded ones, ``Phi(-+ sqrt(n / (n-1))
    t_{n-1})`` with Student's 97.5% quantile t, are as wide for a mean as its t interval (Hesterberg, arXiv 1411.5279).

    Args:
        sums: [clusters, k], what each cluster adds.
        statistic: sums over all clusters [k] -> [m].
        rng: for the draws.
        samples: draws.

    Returns:
        float64 [m, 2], the lower and the upper end of each; of a single cluster all numbers.
    """
    count = len(sums)
    if count < 2:
        return np.tile([-np.inf, np.inf], (len(statistic(np.asarray(sums, np.float64).sum(0))), 1))
    times = rng.multinomial(count, np.full(count, 1 / count), size=samples)
    found = np.array([statistic(row) for row in times @ np.asarray(sums, np.float64)])
    tail = float(stats.norm.cdf(-np.sqrt(count / (count - 1)) * _quantile(count - 1)))
    return np.quantile(found, [tail, 1 - tail], axis=0).T
