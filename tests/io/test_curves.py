"""The picture of a run: which series it shows, and that it can be drawn from any file."""

import json
import struct
import sys

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.io import curves
from lqlm.io.curves import PANELS, Panel, panel_series, plot_curves, smooth, smoothing_window

ROWS = [
    {"step": 0, "wall": 0.1, "eval/accuracy": 0.25},
    {"step": 1, "wall": 0.2, "reward": 0.5, "rewards/correct/mean": 0.5, "kl": None, "note": "x", "rewarding": 1.0},
    {"step": 2, "wall": 0.3, "reward": 1.5, "rewards/correct/mean": 1, "kl": 0.5, "eval/accuracy": 0.75},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[-8:-4] == b"IEND"
    return struct.unpack(">II", png[16:24])


def drawn_lines(monkeypatch, tmp_path, rows) -> dict[str, dict[str, tuple[list, list]]]:
    """Title -> label -> the data of each labelled line, as matplotlib holds it."""
    figures = []
    build = curves._figure
    monkeypatch.setattr(curves, "_figure", lambda *args: figures.append(build(*args)) or figures[-1])
    plot_curves(write(tmp_path / "m.jsonl", rows), tmp_path / "c.png", title="run", dpi=40)
    (figure,) = figures
    return {
        axes.get_title(loc="left"): {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axes.lines
            if not line.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_series_leave_gaps_and_text_out():
    panel = Panel("r", ("reward", "rewards/*/mean"))
    series = panel_series(ROWS, panel)
    assert list(series) == ["reward", "rewards/correct/mean"]
    np.testing.assert_array_equal(series["reward"], [[1, 2], [0.5, 1.5]])
    np.testing.assert_array_equal(panel_series(ROWS, Panel("k", ("kl",)))["kl"], [[2], [0.5]])
    assert panel_series(ROWS, Panel("n", ("note", "absent"))) == {}


def test_every_default_panel_finds_its_metrics(monkeypatch, tmp_path):
    names = ["eval/accuracy", "reward", "rewards/format/mean", "kl", "entropy", "grad_norm", "completions/mean_length"]
    names += ["eval/reward", "frac_reward_zero_std", "tokens_per_second/rollout", "tokens_per_second/update"]
    rows = [{"step": s, **{name: float(s + i) for i, name in enumerate(names)}} for s in range(3)]
    drawn = drawn_lines(monkeypatch, tmp_path, rows)
    assert list(drawn) == [panel.title for panel in PANELS]
    assert sum(len(lines) for lines in drawn.values()) == len(names)
    assert drawn["Gradient norm"]["grad norm"] == ([0, 1, 2], [5.0, 6.0, 7.0])
    assert list(drawn["Tokens per second"]) == ["rollout", "update"]
    assert list(drawn["Reward per completion"]) == ["reward", "format"]


def test_only_panels_with_data_are_drawn(monkeypatch, tmp_path):
    drawn = drawn_lines(monkeypatch, tmp_path, ROWS)
    assert list(drawn) == ["Held-out accuracy (greedy)", "Reward per completion", "KL to the base (nats per token)"]
    assert drawn["Held-out accuracy (greedy)"]["accuracy"] == ([0, 2], [0.25, 0.75])


def test_the_picture_grows_with_the_panels(tmp_path):
    metrics = write(tmp_path / "m.jsonl", ROWS)
    plot_curves(metrics, tmp_path / "c.png", title="run", dpi=50)
    assert size((tmp_path / "c.png").read_bytes()) == (600, 160)
    plot_curves(metrics, tmp_path / "c.png", title="run", dpi=50, panels=(Panel("r", ("reward",)),))
    assert size((tmp_path / "c.png").read_bytes()) == (200, 160)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "m.jsonl"]
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(("kl", "low"), [([0.0, 0.0], 0.0), ([0.1, 0.2], 0.0), ([-0.5, 0.2], -0.535)])
def test_zero_is_in_sight_and_nothing_below_it_is_cut(tmp_path, kl, low):
    metrics = write(tmp_path / "m.jsonl", [{"step": s, "kl": v} for s, v in enumerate(kl)])
    panel = Panel("KL", ("kl",), low=0.0)
    figure = curves._figure([(panel, panel_series(curves.read_jsonl(metrics), panel))], "run")
    assert figure.axes[0].get_ylim()[0] == pytest.approx(low)


def test_one_point_can_be_drawn(tmp_path):
    plot_curves(write(tmp_path / "m.jsonl", ROWS[:1]), tmp_path / "c.png", title="run", dpi=40)
    assert (tmp_path / "c.png").exists()


@pytest.mark.parametrize("rows", [[], [{"step": 1, "wall": 0.0}]])
def test_nothing_to_draw_is_said(tmp_path, rows):
    with pytest.raises(UserError, match=r"m\.jsonl: no metric to draw"):
        plot_curves(write(tmp_path / "m.jsonl", rows), tmp_path / "c.png", title="run")


def test_smoothing_keeps_constants_lines_and_the_mean():
    x = np.arange(50.0)
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 7), 3.0)
    np.testing.assert_allclose(smooth(x, 7)[3:-3], x[3:-3])  # not shifted
    np.testing.assert_array_equal(smooth(x, 1), x)
    assert all(smoothing_window(n) % 2 == 1 for n in range(1, 2000))
