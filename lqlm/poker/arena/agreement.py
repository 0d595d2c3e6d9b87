"""How far predictions agree with held-out decisions, with intervals by session, and the baselines to beat."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.poker.arena.estimates import bootstrap
from lqlm.poker.arena.features import CLASSES, DecisionTable

BINS = 10
POWERS = tuple(step / 20 for step in range(21))
"""Powers of the prior correction that are tried."""
MEASURES = ("accuracy", "macro F1", "calibration error", "log loss", "sizing error")


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Predictions held against decisions.

    Attributes:
        measures: name -> value; "sizing error" only where sizes were predicted.
        confusion: int64 [5, 5], decisions (rows) by predictions (columns) in the order of ``CLASSES``.
        bins: float64 [10, 3], for each tenth of confidence: decisions, sum of confidence, correct ones.
        decisions: how many.
        sessions: how many, which the intervals are drawn from.
    """

    measures: dict[str, Measure]
    confusion: np.ndarray
    bins: np.ndarray
    decisions: int
    sessions: int


def agreement(
    probabilities: np.ndarray,
    table: DecisionTable,
    rng: np.random.Generator,
    sizes: np.ndarray | None = None,
    samples: int = 1000,
) -> Agreement:
    """Hold predictions against what was decided.

    - accuracy: the most probable action is the one taken.
    - macro F1: the mean of ``2 tp / (2 tp + fp + fn)`` over the actions that were taken or predicted.
    - calibration error: ``sum_b n_b / n |accuracy_b - confidence_b|`` over tenths of the greatest probability.
    - log loss: ``-mean log p(decision)``, p not below 1e-6.
    - sizing error: ``mean |log2(predicted / actual)|`` of bets and raises, sizes in pots; 1 is a factor of two.

    Args:
        probabilities: [rows, 5].
        table: the decisions.
        rng: for the bootstrap of sessions.
        sizes: [rows], the size in pots that would be bet, whatever the action; None where none is predicted.
        samples: of the bootstrap.

    Raises:
        UserError: when rows do not fit or are no distributions.
    """
    _check(probabilities, table)
    rows = np.hstack([_confusion_rows(probabilities, table.labels), _bin_rows(probabilities, table.labels)])
    loss = -np.log(np.maximum(probabilities[np.arange(len(rows)), table.labels], 1e-6))
    error, sized = _size_rows(sizes, table)
    rows = np.column_stack([rows, loss, error, sized])
    _, session = np.unique(table.sessions, return_inverse=True)
    sums = np.zeros((session.max() + 1, rows.shape[1]))
    np.add.at(sums, session, rows)
    total = sums.sum(0)
    ends = bootstrap(sums, _measures, rng, samples)
    found = {name: Measure(float(v), float(a), float(b)) for name, v, (a, b) in zip(MEASURES, _measures(total), ends)}
    if sizes is None:
        del found["sizing error"]
    classes = len(CLASSES) ** 2
    confusion = total[:classes].reshape(len(CLASSES), -1).astype(np.int64)
    return Agreement(found, confusion, total[classes:-3].reshape(BINS, 3), len(rows), len(sums))


def _check(probabilities: np.ndarray, table: DecisionTable) -> None:
    if probabilities.shape != (len(table.labels), len(CLASSES)) or not len(table.labels):
        raise UserError(
            f"predictions {probabilities.shape} for {len(table.labels)} decisions of {len(CLASSES)} actions"
        )
    if (probabilities < 0).any() or (abs(probabilities.sum(1) - 1) > 1e-4).any():
        row = int(np.argmax(abs(probabilities.sum(1) - 1)))
        raise UserError(f"predictions, row {row}: {probabilities[row]} is no distribution")


def _confusion_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-hot rows of the cell of the confusion matrix."""
    cell = labels * len(CLASSES) + probabilities.argmax(1)
    return np.eye(len(CLASSES) ** 2)[cell]


def _bin_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows [10 * 3]: in the bin of the row 1, its confidence, whether it is correct."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = np.zeros((len(labels), BINS, 3))
    rows[np.arange(len(labels)), at] = np.column_stack([np.ones(len(labels)), confidence, correct])
    return rows.reshape(len(labels), -1)


def _size_rows(sizes: np.ndarray | None, table: DecisionTable) -> tuple[np.ndarray, np.ndarray]:
    sized = np.isfinite(table.sizes) & (table.sizes > 0) & (sizes is not None)
    if sizes is None:
        return np.zeros(len(sized)), sized
    ratio = np.maximum(sizes, 1e-3) / np.where(sized, table.sizes, 1.0)
    return np.where(sized, abs(np.log2(ratio)), 0.0), sized


def _measures(sums: np.ndarray) -> np.ndarray:
    """The values of :data:`MEASURES` from sums over decisions."""
    classes = len(CLASSES) ** 2
    confusion = sums[:classes].reshape(len(CLASSES), -1)
    bins = sums[classes:-3].reshape(BINS, 3)
    loss, error, sized = sums[-3:]
    count = confusion.sum()
    ece = abs(bins[:, 2] - bins[:, 1]).sum() / count
    return np.array([np.trace(confusion) / count, macro_f1(confusion), ece, loss / count, error / max(sized, 1)])


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 over the actions that were taken or predicted.

    >>> macro_f1(np.array([[2, 0], [2, 0]]))
    0.3333333333333333
    """
    hits, both = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    return float(np.mean(2 * hits[both > 0] / both[both > 0]))


def frequencies(table: DecisionTable) -> np.ndarray:
    """The share of each action among the decisions, with one more of each, so that none is 0; [5]."""
    counts = np.bincount(table.labels, minlength=len(CLASSES)) + 1.0
    return counts / counts.sum()


def prior_corrected(probabilities: np.ndarray, shares: np.ndarray, power: float) -> np.ndarray:
    """Rare actions weigh more, ``p'_a = (p_a / f_a^power) / sum_b (p_b / f_b^power)``.

    The most probable action of ``p`` is best for accuracy, that of a higher power nearer to best for macro F1 (at power
    1 it is best for the mean recall).  What comes out is for choosing; it is calibrated no longer.

    Args:
        probabilities: p, [rows, 5].
        shares: f, [5], as :func:`frequencies` of training decisions.
        power: 0 changes nothing.

    Returns:
        float64 [rows, 5].

    >>> print(prior_corrected(np.array([[0.75, 0.25]]), np.array([0.75, 0.25]), 1.0))
    [[0.5 0.5]]
    """
    weights = probabilities / shares**power
    return weights / weights.sum(1, keepdims=True)


def best_power(probabilities: np.ndarray, table: DecisionTable, shares: np.ndarray) -> float:
    """The power of :data:`POWERS` with the greatest macro F1 on decisions that are neither learned from nor tested on.

    Of powers with the same value, the least one.
    """
    _check(probabilities, table)
    found = [
        macro_f1(_confusion_rows(prior_corrected(probabilities, shares, power), table.labels).sum(0).reshape(5, 5))
        for power in POWERS
    ]
    return POWERS[int(np.argmax(found))]


def majority(train: DecisionTable, test: DecisionTable) -> np.ndarray:
    """Where the same actions are legal, the frequencies of the training decisions; [rows, 5]."""
    out = test.legal / test.legal.sum(1, keepdims=True)
    for legal in np.unique(train.legal, axis=0):
        counts = np.bincount(train.labels[(train.legal == legal).all(1)], minlength=len(CLASSES))
        out[(test.legal == legal).all(1)] = counts / counts.sum()
    return out


def boosted_trees(
    train: DecisionTable, test: DecisionTable, groups: tuple[str, ...], seed: int = 0, rounds: int = 100
) -> np.ndarray:
    """Gradient-boosted trees of scikit-learn on some groups of features, legal actions only; [rows, 5]."""
    sklearn, one_thread = _sklearn()
    model = sklearn.HistGradientBoostingClassifier(max_iter=rounds, random_state=seed, early_stopping=False)
    out = np.zeros((len(test.labels), len(CLASSES)))
    with one_thread():
        model.fit(train.columns(*groups), train.labels)
        out[:, model.classes_] = model.predict_proba(test.columns(*groups))
    out = np.where(test.legal, out, 0.0) + 1e-9 * test.legal
    return out / out.sum(1, keepdims=True)


def boosted_sizes(
    train: DecisionTable, test: DecisionTable, groups: tuple[str, ...], seed: int = 0, rounds: int = 100
) -> np.ndarray:
    """The size of a bet or raise in pots by boosted trees on its logarithm; [rows]."""
    sklearn, one_thread = _sklearn()
    sized = np.isfinite(train.sizes) & (train.sizes > 0)
    model = sklearn.HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=rounds, random_state=seed, early_stopping=False
    )
    with one_thread():
        model.fit(train.columns(*groups)[sized], np.log2(train.sizes[sized]))
        return np.exp2(model.predict(test.columns(*groups)))


def _sklearn() -> tuple[Any, Callable[[], Any]]:
    """The trees, and a limit of one thread: beside other work their threads wait for each other ten times as long."""
    try:
        import threadpoolctl
        from sklearn import ensemble
    except ModuleNotFoundError as error:
        raise UserError("boosted trees need scikit-learn: pip install 'lqlm[poker]'") from error
    return ensemble, functools.partial(threadpoolctl.threadpool_limits, limits=1)
