"""The page of a run, put together from the files that the run writes."""

import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lqlm.errors import UserError
from lqlm.io.curves import Panel, panel_series
from lqlm.io.disk import write_atomic
from lqlm.io.metrics import METRICS, SAMPLES, read_jsonl
from lqlm.io.report.charts import bars, line_chart
from lqlm.io.report.samples import samples_html

STYLE = pathlib.Path(__file__).with_name("style.css")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded and no script runs: the page is all there is
)

COLOURINGS = {
    "r": ("log p/ref (blue: likelier than under the base)", {"logp", "ref_logp"}),
    "a": ("advantage", {"advantage"}),
    "p": ("log p (red: surprising)", {"logp"}),
}
"""What can colour a token, in words, and what must be known of it; the first that is known is chosen."""


def write_report(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    panels: Sequence[Panel],
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of a run, finished or not.

    Args:
        directory: of the run: its ``metrics.jsonl``, and where they are there ``samples.jsonl``, ``summary.json`` and
            ``config.json``.
        out: path of the page.
        panels: what to draw; those without data are left out.
        summary: what ``summary.json`` will hold; by default what it holds.

    Raises:
        UserError: when there is no run, or the disk is full.
    """
    folder = pathlib.Path(directory)
    rows = read_jsonl(folder / METRICS)
    if not rows:
        raise UserError(f"{folder}: no {METRICS} with a step in it; name the folder of a run (its workdir)")
    summary = summary or _json(folder / "summary.json")
    config = _json(folder / "config.json")
    parts = [
        _heading(folder.name, rows, summary),
        _section("Before and after", _before_after(rows, summary)),
        _section("Curves", _charts(rows, panels)),
        _section("Time and memory by phase", _phases(rows, summary)),
        _section("Samples", _samples(read_jsonl(folder / SAMPLES))),
        _section("Settings", _settings(config)),
    ]
    write_atomic(out, _page(folder.name, "".join(parts)))


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE.read_text()}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _heading(name: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    state = "finished" if summary else f"not finished: step {rows[-1]['step']}"
    facts = [state, f"{rows[-1]['step']} steps", f"{rows[-1].get('wall', 0.0) / 60:.1f} minutes"]
    if summary:
        facts.append(f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB")
        facts.append(f"{summary['compilations']} compilations")
        facts.append(f"model {summary['model']['source']}")
    return f"<h1>{html.escape(name)}</h1><p>{html.escape(' · '.join(facts))}</p>"


def _before_after(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Evaluations of the first and of the last step, or of the one that the run chose."""
    evals = [{k: v for k, v in row.items() if k.startswith("eval/") and v is not None} for row in rows]
    found = [one for one in evals if one]
    if not found:
        return ""
    before, after = summary.get("before", found[0]), summary.get("after", found[-1])
    lines = [
        f"<tr><th>{html.escape(name.removeprefix('eval/'))}</th><td>{_number(value)}</td><td>{_number(after.get(name))}</td></tr>"
        for name, value in before.items()
    ]
    return f"<table><tr><th></th><td>before</td><td>after</td></tr>{''.join(lines)}</table>"


def _charts(rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel]) -> str:
    drawn = [(panel, series) for panel in panels if (series := panel_series([dict(row) for row in rows], panel))]
    return f'<div class="charts">{"".join(line_chart(*one) for one in drawn)}</div>' if drawn else ""


def _phases(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Seconds of the whole run, and the largest memory seen at the end of each phase."""
    seconds = _by_phase(rows, "seconds/", sum) if not summary else _by_phase([summary], "seconds/", sum)
    memory = {name: value / 2**30 for name, value in _by_phase(rows, "memory/", max).items()}
    parts = [
        f"<div><h3>{title}</h3>{table}</div>"
        for title, table in (
            ("Seconds", bars(seconds, "s", shares=True) if seconds else ""),
            ("Memory in use at a phase's end, at most", bars(memory, "GiB", shares=False) if memory else ""),
        )
        if table
    ]
    return f'<div class="phases">{"".join(parts)}</div>' if parts else ""


def _by_phase(rows: Sequence[Mapping[str, Any]], prefix: str, combine: Any) -> dict[str, float]:
    names = {name: None for row in rows for name in row if name.startswith(prefix)}
    return {name.removeprefix(prefix): combine(float(row.get(name) or 0.0) for row in rows) for name in names}


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    """Samples below the choice of what colours their tokens; the choice needs no script."""
    listed = samples_html(rows)
    known = {name for row in rows if row.get("tokens") for name, value in row.items() if value is not None}
    choices = {key: text for key, (text, needs) in COLOURINGS.items() if needs <= known}
    if not choices:
        return listed
    buttons = "".join(
        f'<label><input type="radio" name="by" id="by-{key}"{" checked" if key == next(iter(choices)) else ""}> '
        f"{text}</label>"
        for key, text in choices.items()
    )
    return f'<div class="by">Colour by {buttons}</div>{listed}'


def _settings(config: Mapping[str, Any]) -> str:
    return f"<details><summary>config.json</summary><pre>{html.escape(json.dumps(config, indent=2))}</pre></details>"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "not finite"
