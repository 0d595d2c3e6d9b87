"""What the runs found: curves against samples and seconds, and a table with intervals over the seeds."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lqlm.errors import UserError
from lqlm.io.metrics import METRICS, read_jsonl

WORK = ("seconds/rollout", "seconds/reward", "seconds/logprob", "seconds/update")  # not evaluations and checkpoints
TAIL = 0.1  # share of the steps, the last ones, whose mean reward is told


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run, step by step; all float64 arrays of one entry a step, the first of them before any.

    Attributes:
        rollouts: samples drawn until then.
        seconds: of work until then; the first step, which compiles, counts as the median of the others.
        metric: held-out; NaN where there was no evaluation.
        reward: mean of the step's samples; NaN before the first.
        collapsed: share of the groups, as sampled first, whose rewards are all equal.
        used: the same of the groups that were learned from.
    """

    rollouts: np.ndarray
    seconds: np.ndarray
    metric: np.ndarray
    reward: np.ndarray
    collapsed: np.ndarray
    used: np.ndarray


def read_curve(workdir: pathlib.Path, metric: str) -> Curve:
    """The curve of a finished run.

    Raises:
        UserError: when the run has never evaluated the metric.
    """
    rows = read_jsonl(workdir / METRICS)
    column = lambda name: np.array([_number(row.get(name)) for row in rows])  # noqa: E731
    if not np.isfinite(column(metric)).any():
        raise UserError(f"{workdir}: its metrics have no {metric}; set metric to one that every variant evaluates")
    work = np.nan_to_num(np.array([[_number(row.get(name)) for name in WORK] for row in rows])).sum(-1)
    if len(work) > 2:
        work[1] = np.median(work[2:])
    collapsed = column("frac_reward_zero_std")
    used = column("frac_update_zero_std")
    return Curve(
        rollouts=_rollouts(workdir, rows, column("rollouts_total")),
        seconds=np.cumsum(work),
        metric=column(metric),
        reward=column("reward"),
        collapsed=collapsed,
        used=np.where(np.isnan(used), collapsed, used),
    )


def _rollouts(workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]], counted: np.ndarray) -> np.ndarray:
    """As counted by the run; of a command that does not count, step by step its prompts times its group."""
    if np.isfinite(counted).any():
        return np.nan_to_num(counted)
    run = json.loads((workdir / "config.json").read_text())["run"]
    return np.array([row["step"] for row in rows], float) * run["prompts"] * run.get("group", 1)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def within(curve: Curve, rollouts: float) -> dict[str, float]:
    """What a run had reached with so many samples, by its last evaluation within them."""
    steps = np.flatnonzero(curve.rollouts <= rollouts)
    evaluated = steps[np.isfinite(curve.metric[steps])]
    trained = steps[steps > 0]
    tail = trained[-max(1, round(TAIL * len(trained))) :]
    return {
        "before": float(curve.metric[0]),
        "after": float(curve.metric[evaluated[-1]]),
        "reward": _mean(curve.reward[tail]),
        "zero_variance": _mean(curve.collapsed[trained]),
        "zero_variance_used": _mean(curve.used[trained]),
        "seconds": float(curve.seconds[evaluated[-1]]),
        "rollouts": float(curve.rollouts[evaluated[-1]]),
        "steps": float(evaluated[-1]),
    }


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and half the width of its 95% interval by Student's t; None for a single value.

    >>> interval([1.0, 2.0, 3.0])["mean"], round(interval([1.0, 2.0, 3.0])["half_width"], 3)
    (2.0, 2.484)
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"mean": mean, "half_width": None}
    return {"mean": mean, "half_width": float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))}


def summarize(curves: Mapping[str, Sequence[Curve]], rollouts: int) -> dict[str, Any]:
    """The table: of each variant, mean and interval over its seeds, at equal rollouts."""
    budget = rollouts or min(float(curve.rollouts[-1]) for group in curves.values() for curve in group)
    found = {name: [within(curve, budget) for curve in group] for name, group in curves.items()}
    table = {
        name: {"seeds": len(group), **{key: interval([one[key] for one in group]) for key in group[0]}}
        for name, group in found.items()
    }
    return {"rollouts": budget, "variants": table}


def markdown(summary: Mapping[str, Any], metric: str) -> str:
    """The table for a person, the best first."""
    columns = ("before", "after", "reward", "zero_variance", "zero_variance_used", "seconds", "rollouts")
    names = ("before", "after", "reward", "zero variance, drawn", "zero variance, used", "seconds", "rollouts")
    lines = [
        f"{metric} at {summary['rollouts']:.0f} rollouts: mean and 95% interval over the seeds.",
        "",
        f"| variant | seeds | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    rows = sorted(summary["variants"].items(), key=lambda item: -item[1]["after"]["mean"])
    for name, row in rows:
        cells = [_cell(row[column], 0 if column in ("seconds", "rollouts") else 3) for column in columns]
        lines.append(f"| {name} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None], digits: int) -> str:
    mean, half = value["mean"], value["half_width"]
    if mean is None or math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if not half else f" ± {half:.{digits}f}")
