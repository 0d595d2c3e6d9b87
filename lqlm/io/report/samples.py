"""Completions as a person reads them: each token on the colour of its log-ratio, or of the advantage it was given."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_STEPS = 40
RED, BLUE = "220 60 50", "40 110 220"


def samples_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """All samples, by step; of very many steps an even choice, and it is said so.

    Args:
        rows: of ``samples.jsonl``: ``step``, ``prompt``, ``completion``, ``answer``, ``rewards``, and where they were
            kept ``tokens`` (texts), ``logp`` and ``ref_logp`` (one number for each), and ``advantage`` (one number, or
            one for each token).

    Returns:
        HTML; empty without rows.
    """
    groups = [(step, list(of)) for step, of in itertools.groupby(rows, key=lambda row: row["step"])]
    if not groups:
        return ""
    shown = evenly(groups, MOST_STEPS)
    left_out = f"<p>{len(shown)} of {len(groups)} steps are shown.</p>" if len(shown) < len(groups) else ""
    opened = {shown[0][0], shown[-1][0]}
    return left_out + "".join(_step(step, of, step in opened) for step, of in shown)


def _step(step: int, rows: Sequence[Mapping[str, Any]], opened: bool) -> str:
    samples = "".join(map(_sample, rows))
    return f"<details{' open' if opened else ''}><summary>Step {step}</summary>{samples}</details>"


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, the first and the last among them.

    >>> evenly(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def _sample(row: Mapping[str, Any]) -> str:
    rewards = "".join(
        f'<span class="badge">{html.escape(name)} {_figure(value)}</span>' for name, value in row["rewards"].items()
    )
    advantage = row.get("advantage")
    if isinstance(advantage, int | float):
        rewards += f'<span class="badge">advantage {_figure(advantage)}</span>'
    prompt, answer = (html.escape(str(row[name])) for name in ("prompt", "answer"))
    return (
        f'<article><div class="prompt">{prompt}</div><div class="completion">{_text(row)}</div>'
        f'<div class="facts">{rewards}<span class="answer">answer: {answer}</span></div></article>'
    )


def _text(row: Mapping[str, Any]) -> str:
    tokens = row.get("tokens")
    if not tokens:
        return html.escape(str(row["completion"]))
    logp, ref = (_column(row.get(name), len(tokens)) for name in ("logp", "ref_logp"))
    advantage = _column(row.get("advantage"), len(tokens))
    return "".join(map(_token, tokens, logp, ref, advantage))


def _column(values: Any, n: int) -> list[float | None]:
    """One number for each token: given so, given once for all, or not known."""
    if isinstance(values, list) and len(values) == n:
        return [value if isinstance(value, int | float) else None for value in values]
    return [values if isinstance(values, int | float) else None] * n


def _token(text: str, logp: float | None, ref: float | None, advantage: float | None) -> str:
    ratio = None if logp is None or ref is None else logp - ref
    told = {"log p": logp, "log p/ref": ratio, "advantage": advantage}
    title = ", ".join(f"{name} {_figure(value)}" for name, value in told.items() if value is not None)
    style = f"--r:{colour(ratio)};--a:{colour(advantage)};--p:{colour(logp, 4.0)}"
    return f'<span class="t" style="{style}" title="{title}">{html.escape(text)}</span>'


def colour(value: float | None, scale: float = 1.0) -> str:
    """Blue for more, red for less, the stronger the farther from 0: opacity ``0.75 tanh(|value| / scale)``.

    >>> colour(0.0), colour(None), colour(-1.0)
    ('transparent', 'transparent', 'rgb(220 60 50 / 0.57)')
    """
    strength = 0.75 * math.tanh(abs(value or 0.0) / scale)
    return f"rgb({BLUE if (value or 0) > 0 else RED} / {strength:.2f})" if strength >= 0.005 else "transparent"


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else html.escape(str(value))
