"""Line charts and bars as SVG text, in the colours of the page; a point tells its value when the mouse rests on it."""

import html
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from lqlm.io.curves import COLOURS, Panel, label_of, smooth, smoothing_window

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 8, 24
MOST_POINTS = 200
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
Place = Callable[[np.ndarray, np.ndarray], np.ndarray]  # steps and values to pixels [n, 2]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range, 1, 2 or 5 times a power of ten apart.

    Args:
        low: of the range.
        high: of the range; above ``low``.
        most: about how many.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, digits) for k in range(first, last + 1)]


def bounds(panel: Panel, values: np.ndarray) -> tuple[float, float]:
    """What the vertical axis spans: all values, the panel's own limits, and never nothing."""
    low, high = float(values.min()), float(values.max())
    low = min(low, panel.low) if panel.low is not None else low
    high = max(high, panel.high) if panel.high is not None else high
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if panel.low == low else low - margin), (high if panel.high == high else high + margin)


def line_chart(panel: Panel, series: Series) -> str:
    """A panel with its lines: points as they are, or a smoothed line above the faint one of the values.

    Args:
        panel: its title, limits, and whether it has few points.
        series: name -> (steps, values), as from `lqlm.io.curves.panel_series`; none of them empty.

    Returns:
        A ``<figure>``.
    """
    x_low, x_high = (f(float(f(x)) for x, _ in series.values()) for f in (min, max))
    y_low, y_high = bounds(panel, np.concatenate([y for _, y in series.values()]))
    x_high = x_high if x_high > x_low else x_low + 1.0
    across, up = (WIDTH - LEFT - RIGHT) / (x_high - x_low), (HEIGHT - TOP - BOTTOM) / (y_high - y_low)

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.stack([LEFT + (x - x_low) * across, HEIGHT - BOTTOM - (y - y_low) * up], axis=-1).round(1)

    grid = [_grid_line(v, place(np.array([x_low]), np.array([v]))[0, 1]) for v in ticks(y_low, y_high)]
    steps = [_step_label(v, place(np.array([v]), np.array([y_low]))[0, 0]) for v in ticks(x_low, x_high)]
    lines = [
        _line(panel, name, x, y, place, colour)
        for (name, (x, y)), colour in zip(series.items(), itertools.cycle(COLOURS))
    ]
    drawn = "".join([*grid, *steps, *lines])
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(panel.title)}">{drawn}</svg>'
    return f"<figure><figcaption>{html.escape(panel.title)}{_legend(series)}</figcaption>{picture}</figure>"


def _line(panel: Panel, name: str, x: np.ndarray, y: np.ndarray, place: Place, colour: str) -> str:
    window = 1 if panel.points else smoothing_window(len(y))
    faint = _path(place(x, y), colour, "faint") if window > 1 else ""
    return faint + _path(place(x, smooth(y, window)), colour, "line") + _points(panel, name, x, y, place, colour)


def _path(points: np.ndarray, colour: str, kind: str) -> str:
    return f'<polyline class="{kind}" stroke="{colour}" points="{" ".join(f"{px},{py}" for px, py in points)}"/>'


def _points(panel: Panel, name: str, x: np.ndarray, y: np.ndarray, place: Place, colour: str) -> str:
    """A mark for each value, invisible where there are many, that tells it to the mouse."""
    every = max(1, math.ceil(len(x) / MOST_POINTS))
    kind = "point" if panel.points else "hit"
    marks = zip(place(x, y)[::every], x[::every], y[::every])
    return "".join(
        f'<circle class="{kind}" cx="{px}" cy="{py}" r="{4 if panel.points else 6}" fill="{colour}">'
        f"<title>{html.escape(label_of(name))}, step {step:.0f}: {value:.5g}</title></circle>"
        for (px, py), step, value in marks
    )


def _grid_line(value: float, at: float) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{at + 3.5}" text-anchor="end">{value:.6g}</text>'


def _step_label(value: float, at: float) -> str:
    return f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{value:.6g}</text>' if value == int(value) else ""


def _legend(series: Series) -> str:
    if len(series) < 2:
        return ""
    names = zip(series, itertools.cycle(COLOURS))
    return "".join(
        f'<span class="key" style="--c:{colour}">{html.escape(label_of(name))}</span>' for name, colour in names
    )


def bars(values: Mapping[str, float], unit: str, shares: bool) -> str:
    """Horizontal bars, longest first.

    Args:
        values: name -> amount, none negative.
        unit: of the amounts.
        shares: whether the amounts have a sum that each is a share of.

    Returns:
        A ``<table>``.
    """
    total, most = sum(values.values()) or 1.0, max(values.values(), default=0.0) or 1.0
    rows = [
        f"<tr><th>{html.escape(name)}</th><td>{value:,.1f} {html.escape(unit)}</td>"
        + (f"<td>{value / total:.0%}</td>" if shares else "")
        + f'<td class="bar"><i style="width:{100 * value / most:.1f}%"></i></td></tr>'
        for name, value in sorted(values.items(), key=lambda pair: -pair[1])
    ]
    return f"<table>{''.join(rows)}</table>"
