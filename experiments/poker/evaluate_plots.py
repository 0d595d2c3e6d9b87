"""The plots of ``evaluate``, every value with its 95% interval."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.poker.measure import Row

SHOWN = ("duplicate", "all-in", "controlled")


def draw(found: Mapping[str, list[Row]], folder: pathlib.Path) -> None:
    """Write a picture for each part that has rows."""
    for name, plot in (("matches", _matches), ("small games", _games), ("agreement", _agreement)):
        if found.get(name):
            figure = plot(found[name])
            figure.savefig(folder / f"{name.replace(' ', '_')}.png", dpi=120, bbox_inches="tight")


def _matches(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(8, 1 + 0.45 * len(rows)))
    axes = figure.subplots()
    at = np.arange(len(rows))[::-1]
    for i, name in enumerate(SHOWN):
        mean, half = np.array([row["mbb"][name] for row in rows]).T
        axes.errorbar(mean, at + 0.2 - 0.2 * i, xerr=half, fmt="o", markersize=3, capsize=2, label=name)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(at, [f"{row['hero']} - {row['seats'] - 1} x {row['against']}" for row in rows])
    axes.set_xlabel("mbb per hand, 95% intervals")
    axes.legend()
    return figure


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
