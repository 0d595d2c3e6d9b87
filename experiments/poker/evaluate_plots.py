"""The plots of ``evaluate``, every value with its 95% interval."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.poker.measure import Row
from lqlm.poker.select import Z95

SHOWN = ("duplicate", "all-in", "controlled")
LINEAR = 500
"""Up to so many mbb the scale is linear."""


def draw(found: Mapping[str, list[Row]], folder: pathlib.Path) -> None:
    """Write a picture for each part that has rows."""
    for name, plot in PLOTS.items():
        if found.get(name):
            figure = plot(found[name])
            figure.savefig(folder / f"{name.replace(' ', '_')}.png", dpi=120, bbox_inches="tight")


def _matches(rows: list[Row]) -> Figure:
    """A column for each game and number of seats, a line for each two who play; far wins and losses on a log scale."""
    columns = list(dict.fromkeys((row.get("game", ""), row["seats"]) for row in rows))
    names = list(dict.fromkeys((row["hero"], row["against"]) for row in rows))
    figure = Figure(figsize=(2.5 + 3.5 * len(columns), 1.5 + 0.32 * len(names)))
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns):
        _column(axes, [row for row in rows if (row.get("game", ""), row["seats"]) == column], names)
        axes.set_title(f"{column[0]} {column[1]} seats".strip(), fontsize=9)
    figure.axes[0].set_yticks(range(len(names), 0, -1), [f"{hero} - {other}" for hero, other in names], fontsize=8)
    figure.axes[0].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.12), ncols=len(SHOWN))
    than = f" more than {rows[0]['than']}" if "than" in rows[0] else ""
    figure.supxlabel(f"mbb per hand{than}, 95% intervals", fontsize=9)
    figure.tight_layout()
    return figure


def _column(axes: Axes, rows: list[Row], names: list[tuple[str, str]]) -> None:
    at = np.array([len(names) - names.index((row["hero"], row["against"])) for row in rows])
    for i, name in enumerate(SHOWN):
        mean, half = np.array([row["mbb"][name] for row in rows]).T
        axes.errorbar(mean, at + 0.2 - 0.2 * i, xerr=half, fmt="o", markersize=3, capsize=2, label=name)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_xticks([-10_000, -LINEAR, 0, LINEAR, 10_000], ["-10k", f"-{LINEAR}", "0", f"{LINEAR}", "10k"], fontsize=8)
    axes.grid(axis="y", linewidth=0.3)


def _games(rows: list[Row]) -> Figure:
    games = sorted({row["game"] for row in rows})
    figure = Figure(figsize=(5 * len(games), 3))
    for axes, game in zip(np.atleast_1d(figure.subplots(1, len(games))), games):
        some = [row for row in rows if row["game"] == game]
        axes.barh([row["policy"] for row in some], [row["exploitability"] for row in some])
        axes.invert_yaxis()
        axes.set_xlabel(f"{game}: exploitability, antes per hand (exact)")
    figure.tight_layout()
    return figure


def _agreement(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(15, 1.5 + 0.4 * len(rows)))
    panels = figure.subplots(1, 3)
    for axes, names in zip(panels, (("accuracy", "macro F1"), ("calibration error", "sizing error"))):
        _measures(axes, rows, names)
    panels[0].set_yticks(np.arange(len(rows))[::-1], [row["predictor"] for row in rows])
    panels[1].set_yticks([])
    panels[1].set_xscale("log")
    _calibration(panels[2], rows)
    figure.tight_layout()
    return figure


def _measures(axes: Axes, rows: list[Row], names: tuple[str, ...]) -> None:
    """A line for each predictor; those without such a measure have no mark."""
    none = [np.nan] * 3
    for i, name in enumerate(names):
        value, low, high = np.array([row.get(name, none) for row in rows], float).T
        at = np.arange(len(rows))[::-1] + 0.1 - 0.2 * i
        axes.errorbar(value, at, xerr=[value - low, high - value], fmt="o", capsize=2, label=name)
    axes.set_xlabel("95% intervals by session")
    axes.legend()


def _calibration(axes: Axes, rows: list[Row]) -> None:
    """How often the most probable action was taken, by its probability; intervals as if decisions were independent."""
    for row in rows:
        count, confidence, correct = (column[np.array(row["bins"])[:, 0] > 0] for column in np.array(row["bins"]).T)
        share, (low, high) = correct / count, wilson(correct, count)
        bars = [np.maximum(share - low, 0), np.maximum(high - share, 0)]
        axes.errorbar(
            confidence / count, share, yerr=bars, fmt="o-", markersize=3, capsize=2, lw=1, label=row["predictor"]
        )
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7)


def wilson(correct: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95% interval of a share, ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.

    >>> [bound.round(3).tolist() for bound in wilson(np.array([0, 50, 10]), np.array([10, 100, 10]))]
    [[0.0, 0.404, 0.722], [0.278, 0.596, 1.0]]
    """
    share, square = correct / count, Z95**2 / count
    half = Z95 * np.sqrt(share * (1 - share) / count + square / (4 * count))
    return (share + square / 2 - half) / (1 + square), (share + square / 2 + half) / (1 + square)


PLOTS = {"matches": _matches, "differences": _matches, "small games": _games, "agreement": _agreement}
"""Part of what was found -> its picture."""
