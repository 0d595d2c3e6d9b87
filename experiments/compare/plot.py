"""The picture of a comparison: accuracy against samples and against seconds, with intervals over the seeds."""

import io
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.compare.table import Curve, interval
from lqlm.io.curves import COLOURS, GRID, INK, MUTED, PAPER
from lqlm.io.disk import write_atomic

POINTS = 40
STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # as many variants as colours for each


def plot(curves: Mapping[str, Sequence[Curve]], png: str | os.PathLike[str], *, title: str, metric: str) -> None:
    """Writes a PNG, whole or not at all: a line for each variant, and a band where it has several seeds."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(13.0, 5.0), facecolor=PAPER, layout=layout)
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    panels = [figure.add_subplot(1, 2, number) for number in (1, 2)]
    looks = itertools.cycle(itertools.product(STYLES, COLOURS))
    for (name, group), (style, colour) in zip(curves.items(), looks):
        for axes, of in zip(panels, ("rollouts", "seconds")):
            x, mean, half = banded(group, of)
            axes.plot(x, mean, color=colour, linestyle=style, linewidth=1.6, label=name)
            axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.1, linewidth=0)
    for axes, of in zip(panels, ("samples drawn", "seconds of work (rollout, reward, log-probabilities, update)")):
        _frame(axes, of, metric)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False, labelcolor=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomic(png, buffer.getvalue())


def banded(group: Sequence[Curve], of: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of an axis that all runs have reached, the mean there, and half the width of its interval (0 of one run).

    Args:
        group: the runs of a variant.
        of: ``rollouts`` or ``seconds``.
    """
    axes, values = [], []
    for curve in group:
        evaluated = np.isfinite(curve.metric)
        axes.append(getattr(curve, of)[evaluated])
        values.append(curve.metric[evaluated])
    x = np.linspace(0.0, min(axis[-1] for axis in axes), POINTS)
    found = [interval(column) for column in np.array([np.interp(x, a, v) for a, v in zip(axes, values)]).T.tolist()]
    return x, np.array([f["mean"] for f in found], float), np.array([f["half_width"] or 0.0 for f in found])


def _frame(axes: Axes, label: str, metric: str) -> None:
    axes.set_title(metric, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(label, color=MUTED, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
