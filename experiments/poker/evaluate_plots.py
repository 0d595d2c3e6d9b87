"""The plots of ``evaluate``, every value with its 95% interval."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.poker.measure import Row

SHOWN = ("duplicate", "all-in", "controlled")
LINEAR = 500
"""Up to so many mbb the scale is linear."""


def draw(found: Mapping[str, list[Row]], folder: pathlib.Path) -> None:
    """Write a picture for each part that has rows."""
    for name, plot in (("matches", _matches), ("small games", _games), ("agreement", _agreement)):
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
    figure.supxlabel("mbb per hand, 95% intervals", fontsize=9)
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
    figure = Figure(figsize=(11, 1.5 + 0.4 * len(rows)))
    left, right = figure.subplots(1, 2)
    at = np.arange(len(rows))[::-1]
    for i, name in enumerate(("accuracy", "macro F1")):
        value, low, high = np.array([row[name] for row in rows]).T
        left.errorbar(value, at + 0.1 - 0.2 * i, xerr=[value - low, high - value], fmt="o", capsize=2, label=name)
    left.set_yticks(at, [row["predictor"] for row in rows])
    left.set_xlabel("95% intervals by session")
    left.legend()
    for row in rows:
        count, confidence, correct = np.array(row["bins"]).T
        some = count > 0
        right.plot(
            confidence[some] / count[some], correct[some] / count[some], "o-", markersize=3, label=row["predictor"]
        )
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    right.set_xlabel("confidence")
    right.set_ylabel("accuracy")
    right.legend(fontsize=7)
    figure.tight_layout()
    return figure
