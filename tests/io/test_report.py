"""The page of a run: well-formed, self-contained, and true to the files that it is made of."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.curves import PANELS, Panel, panel_series
from lqlm.io.report.charts import bars, bounds, line_chart, ticks
from lqlm.io.report.page import write_report
from lqlm.io.report.samples import colour, evenly, samples_html

VOID = {"meta", "input", "br", "img", "link", "hr"}
HOSTILE = "<script>alert('x')</script>&\"<b>"
METRICS = [
    {"step": 0, "wall": 1.0, "eval/accuracy": 0.25, "seconds/eval": 2.0, "memory/eval": 2**30},
    {"step": 1, "wall": 60.0, "reward": 0.5, "kl": None, "seconds/rollout": 1.0, "memory/rollout": 3 * 2**29},
    {"step": 2, "wall": 120.0, "reward": 0.75, "seconds/rollout": 3.0, "memory/rollout": 2**29, "eval/accuracy": 0.5},
]
SAMPLE = {"step": 2, "prompt": HOSTILE, "completion": HOSTILE, "answer": 4, "rewards": {"total": 1.0, HOSTILE: None}}
TOKENS = {"tokens": ["4", HOSTILE, "\n"], "logp": [-0.1, -2.0, None], "ref_logp": [-1.1, -1.0, -1.0], "advantage": -0.5}


class Page(HTMLParser):
    """Every tag that is opened is closed, in order; texts, attributes and names are kept."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path):
    lines(tmp_path / "metrics.jsonl", METRICS)
    lines(tmp_path / "samples.jsonl", [SAMPLE, SAMPLE | TOKENS])
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7, "note": HOSTILE}))
    return tmp_path


def page_of(run, **options):
    write_report(run, run / "report.html", PANELS, **options)
    return (run / "report.html").read_text()


def test_the_page_is_well_formed_and_loads_nothing(run):
    text = page_of(run)
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert not [a for a in page.attributes if a[1] in ("src", "href") or a[1].startswith("on")]
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert HOSTILE not in text and page.texts.count(HOSTILE) >= 3  # shown, not obeyed


def test_the_page_says_what_the_files_say(run):
    texts = Page(page_of(run)).texts
    joined = "\n".join(texts)
    assert "not finished: step 2 · 2 steps · 2.0 minutes" in joined
    assert texts[texts.index("accuracy") :][:3] == ["accuracy", "0.25", "0.5"]
    assert texts[texts.index("rollout") :][:3] == ["rollout", "4.0 s", "67%"]  # 1 + 3 of 6 seconds
    memory = texts[texts.index("Memory in use at a phase's end, at most") :]
    assert memory[1:5] == ["rollout", "1.5 GiB", "eval", "1.0 GiB"]  # the most, not the sum
    assert "Reward per completion" in joined and "KL to the base" not in joined  # null only: no panel
    assert '"seed": 7' in joined


def test_a_finished_run_shows_its_summary(run):
    summary = {
        "peak_memory_bytes": 2**31,
        "compilations": 9,
        "model": {"source": "tiny"},
        "before": {"eval/accuracy": 0.1},
        "after": {"eval/accuracy": None},
        "seconds/rollout": 10.0,
    }
    joined = "|".join(Page(page_of(run, summary=summary)).texts)
    assert "finished · 2 steps" in joined and "peak memory 2.00 GiB · 9 compilations · model tiny" in joined
    assert "accuracy|0.1|not finite" in joined and "rollout|10.0 s|100%" in joined


@pytest.mark.parametrize(
    ("left_out", "offered"), [((), "rap"), (("ref_logp",), "ap"), (("ref_logp", "advantage"), "p"), (("logp",), "a")]
)
def test_only_colours_that_are_known_are_offered_and_the_first_is_chosen(run, left_out, offered):
    tokens = {name: value for name, value in TOKENS.items() if name not in left_out}
    lines(run / "samples.jsonl", [SAMPLE | tokens])
    buttons = re.findall(r'<input type="radio" name="by" id="by-(.)"( checked)?>', page_of(run))
    assert buttons == [(key, " checked" if key == offered[0] else "") for key in offered]


def test_tokens_carry_their_figures(run):
    attributes = Page(page_of(run)).attributes
    spans = [(style, title) for style, title in zip(*(_of(attributes, "span", name) for name in ("style", "title")))]
    assert [title for _, title in spans] == [
        "log p -0.1, log p/ref 1, advantage -0.5",
        "log p -2, log p/ref -1, advantage -0.5",
        "advantage -0.5",
    ]
    assert spans[0][0].startswith(f"--r:{colour(1.0)};--a:{colour(-0.5)}")


def _of(attributes, tag, name):
    return [value for t, n, value in attributes if (t, n) == (tag, name) and "--c" not in value]


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl with a step"):
        write_report(tmp_path, tmp_path / "report.html", PANELS)
    assert not list(tmp_path.iterdir())


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_few_and_inside(low, width):
    high = low + width
    found = ticks(low, high)
    assert len(found) <= 12 and all(low - 1e-6 * width <= t <= high + 1e-6 * width for t in found)
    assert len(found) >= 2 or width < 1e-4 * abs(low)  # beyond the digits that a label has


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_a_chart_places_every_value_inside(values):
    y = np.array(values)
    panel = Panel("p", ("a",), low=0.0)
    series = {"a": (np.arange(len(y)), y), "b": (np.arange(len(y)), -y)}
    page = Page(line_chart(panel, series))
    places = np.array([(float(v)) for tag, name, v in page.attributes if tag == "circle" and name == "cy"])
    assert len(places) == 2 * len(y) and (places >= 0).all() and (places <= 210).all()
    low, high = bounds(panel, np.concatenate([y, -y]))
    assert low <= y.min() and high >= y.max() and low < high
    order = np.argsort(y, kind="stable")
    assert (np.diff(places[: len(y)][order]) <= 0.1).all()  # higher values stand higher


def test_many_points_are_thinned_and_many_steps_are_chosen_from():
    x = np.arange(1000)
    marks = Page(line_chart(Panel("p", ("a",)), {"a": (x, x / 3)})).tags.count("circle")
    assert 100 <= marks <= 200
    text = samples_html([{**SAMPLE, "step": n} for n in range(100)])
    assert "40 of 100 steps are shown" in text and text.count("<details") == 40 and text.count("<details open") == 2
    assert evenly([1, 2], 5) == [1, 2]


def test_nothing_to_show_is_nothing():
    assert samples_html([]) == "" and "<tr>" not in bars({}, "s", shares=True)
    kl = next(panel for panel in PANELS if "kl" in panel.names)
    assert panel_series(METRICS, kl) == {}
