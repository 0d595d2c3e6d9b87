"""The learning curves of one run as a picture: small panels over the step, made from ``metrics.jsonl``."""

import dataclasses
import fnmatch
import io
import itertools
import math
import os
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.io.metrics import read_jsonl

INK, MUTED, GRID, PAPER = "#1f2328", "#6b7280", "#e5e7eb", "#ffffff"
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#be185d", "#65a30d")  # fixed order


@dataclasses.dataclass(frozen=True)
class Panel:
    """One small plot.

    Attributes:
        title: says the quantity and its unit.
        names: patterns (as of a shell) over the names of metrics; each metric hit is a line.
        points: few and far between: drawn as marked values, unsmoothed.
        low: the axis reaches at least down to this value.
        high: and up to this one.
    """

    title: str
    names: tuple[str, ...]
    points: bool = False
    low: float | None = None
    high: float | None = None


PANELS = (
    Panel("Held-out accuracy (greedy)", ("eval/accuracy*",), points=True, low=0.0, high=1.0),
    Panel("Held-out reward (greedy)", ("eval/reward",), points=True),  # of problems without an answer
    Panel("Reward per completion", ("reward", "rewards/*/mean")),
    Panel("KL to the base (nats per token)", ("kl",), low=0.0),
    Panel("Entropy (nats per token)", ("entropy",), low=0.0),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Completion length (tokens)", ("completions/mean_length",), low=0.0),
    Panel("Share of zero-variance groups", ("frac_reward_zero_std",), low=0.0, high=1.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)


def plot_curves(
    metrics: str | os.PathLike[str],
    png: str | os.PathLike[str],
    *,
    title: str,
    panels: tuple[Panel, ...] = PANELS,
    dpi: int = 120,
) -> None:
    """Draws the panels that have data and writes a PNG, whole or not at all.

    Args:
        metrics: a ``metrics.jsonl``; each line has a ``step``, missing and null values are gaps.
        png: the picture's path.
        title: above all panels.
        panels: what to draw.
        dpi: dots per inch; a panel is 4 x 2.7 inches.

    Raises:
        UserError: when no panel has any data.
    """
    rows = read_jsonl(metrics)
    drawn = [(panel, series) for panel in panels if (series := panel_series(rows, panel))]
    if not drawn:
        raise UserError(f"{os.fspath(metrics)}: no metric to draw; run at least one step first")
    figure = _figure(drawn, title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")  # a Figure of its own: pyplot's global state is left alone
    write_atomic(png, buffer.getvalue())


def panel_series(rows: list[dict[str, Any]], panel: Panel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The lines of a panel: metric name -> (steps, values), without gaps, in the order of the panel's patterns."""
    seen = {name: None for row in rows for name in row}
    hit = {name: None for pattern in panel.names for name in seen if fnmatch.fnmatchcase(name, pattern)}
    lines = {name: [(row["step"], row[name]) for row in rows if _number(row.get(name))] for name in hit}
    return {name: (np.array(xy)[:, 0], np.array(xy, float)[:, 1]) for name, xy in lines.items() if xy}


def _number(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over up to ``window`` values (odd), shorter at the ends, so that nothing is shifted.

    >>> smooth(np.array([0.0, 3.0, 0.0, 3.0]), 3).tolist()
    [1.5, 1.0, 2.0, 1.5]
    """
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def smoothing_window(count: int) -> int:
    """An odd window of about a tenth of the points; 1 (none) for short runs.

    >>> [smoothing_window(n) for n in (5, 20, 100, 1000)]
    [1, 3, 11, 51]
    """
    return min(51, 2 * (count // 20) + 1)


def _figure(drawn: list[tuple[Panel, dict[str, tuple[np.ndarray, np.ndarray]]]], title: str) -> Figure:
    columns = min(4, math.ceil(len(drawn) / 2)) if len(drawn) > 3 else len(drawn)
    rows = math.ceil(len(drawn) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(4.0 * columns, 2.7 * rows + 0.5), facecolor=PAPER, layout=layout)
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    last = max(float(x[-1]) for _, series in drawn for x, _ in series.values())
    for n, (panel, series) in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, n + 1)
        _draw(axes, panel, series)
        axes.set_xlim(0, max(last, 1.0) * 1.02)
        if n + columns >= len(drawn):
            axes.set_xlabel("step", color=MUTED, fontsize=9)
    return figure


def _draw(axes: Axes, panel: Panel, series: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    _frame(axes, panel.title)
    for (name, (x, y)), colour in zip(series.items(), itertools.cycle(COLOURS)):
        label = label_of(name)
        if panel.points:
            axes.plot(x, y, "o-", color=colour, markersize=5, linewidth=1.6, label=label, clip_on=False)
            _annotate(axes, x, y, colour)
        else:
            window = smoothing_window(len(y))
            if window > 1:
                axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.28)
            style = "-" if name == next(iter(series)) else (0, (5, 1.2))  # of two equal curves both show
            axes.plot(x, smooth(y, window), color=colour, linewidth=1.8, linestyle=style, label=label)
    _limits(axes, panel, np.concatenate([y for _, y in series.values()]))
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK, handlelength=1.2, borderaxespad=0.2)


def label_of(name: str) -> str:
    """What tells a line from its neighbours: ``rewards/correct/mean`` is ``correct``.

    >>> [label_of(name) for name in ("reward", "rewards/correct/mean", "eval/accuracy", "tokens_per_second/rollout")]
    ['reward', 'correct', 'accuracy', 'rollout']
    """
    return name.removesuffix("/mean").split("/", 1)[-1].replace("_", " ")


def _annotate(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """First and last value in figures, on the side of the point that the line leaves free."""
    share = y.min() >= 0 and y.max() <= 1
    for i, next_to_it, align in ((0, min(1, len(y) - 1), "left"), (len(y) - 1, len(y) - 2, "right"))[: len(y)]:
        rises = y[next_to_it] > y[i] > 0.1 * y.max()
        axes.annotate(
            f"{y[i]:.0%}" if share else f"{y[i]:.0f}" if abs(y[i]) >= 1000 else f"{y[i]:.3g}",
            (x[i], y[i]),
            xytext=(5 if align == "left" else -5, -13 if rises else 7),
            textcoords="offset points",
            ha=align,
            fontsize=9,
            color=colour,
        )


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _limits(axes: Axes, panel: Panel, values: np.ndarray) -> None:
    """Zero stays in sight where it means something; a curve that dips below ``low`` is shown all the same."""
    low, high = axes.get_ylim()
    if panel.low is not None and values.min() >= panel.low:
        low = panel.low
    if panel.high is not None:
        high = max(high, panel.high)
    elif panel.points:
        high += 0.1 * (high - low)  # room for the figures above the first and the last point
    axes.set_ylim(low, high)
