"""The benchmark for a GPU: rehearsed on the CPU, line by line; its driver outlives what its sections do."""

import json
import pathlib
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import driver
from benchmarks.gpu.bench import Bench, random_like
from benchmarks.gpu.checks import TINY
from benchmarks.gpu.kernels import candidates
from benchmarks.gpu.sections import SECTIONS
from experiments.plan.shapes import abstract_base
from lqlm.quant import QuantConfig, dequantize

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_every_section_rehearsed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    monkeypatch.chdir(ROOT)
    command.main(["--rehearse", "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert list(found) == [section.name for section in SECTIONS]
    for name, entry in found.items():
        assert "error" not in entry and entry["seconds"] >= 0, (name, entry)
        assert entry["rows"] and not [row for row in entry["rows"] if "error" in row], (name, entry)
    checked = [row["ok"] for row in found["checks"]["rows"] if "what" in row]
    assert len(checked) == 7 and all(checked)
    ways = {row.get("way") for row in found["kernels"]["rows"]}
    assert ways == {"bf16", "dequantize", "fused", None}
    assert found["update"]["rows"][0]["mfu"] > 0 and found["peak 65B"]["rows"][0]["device_bytes"] > 0
    assert found["plan"]["rows"][0]["planned_bytes"] == found["peak 7B"]["rows"][0]["device_bytes"]
    shown = capsys.readouterr().out
    assert "facts: 5 rows" in shown and "FAILED" not in shown and "WRONG" not in shown


def test_without_a_gpu_it_says_so(capsys, tmp_path):
    command.main(["--out", str(tmp_path / "gpu.json")])
    assert capsys.readouterr().out == "benchmarks.gpu: jax finds no GPU here; nothing was measured.\n"
    assert not (tmp_path / "gpu.json").exists()


WORKER = """
import json, os, sys, time
names, events = sys.argv[1].split(","), sys.argv[2]
def say(**event):
    with open(events, "a") as file:
        file.write(json.dumps(event) + "\\n")
for name in names:
    say(section=name, start=0)
    say(section=name, row={"figure": 1})
    if name == "breaks":
        os._exit(3)
    if name == "hangs":
        time.sleep(60)
    say(section=name, end={"seconds": 0.5, "error": None})
"""


def drive(sections, tmp_path, monkeypatch, minutes=2.0):
    monkeypatch.setattr(
        driver, "_command", lambda names, events, *_: [sys.executable, "-c", WORKER, ",".join(names), str(events)]
    )
    out = tmp_path / "gpu.json"
    record = driver.drive(sections, out, minutes, False, {"python": "3"})
    assert json.loads(out.read_text()) == record
    return record["sections"]


def test_a_section_that_ends_its_process_costs_no_other(tmp_path, monkeypatch):
    found = drive([("good", "", 1), ("breaks", "", 1), ("after", "", 1), ("alone", "peak", 1)], tmp_path, monkeypatch)
    assert found["breaks"]["error"].startswith("exit status 3") and found["breaks"]["rows"] == [{"figure": 1}]
    assert all("error" not in found[name] and found[name]["seconds"] == 0.5 for name in ("good", "after", "alone"))


def test_a_section_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "GRACE", 0.5)
    found = drive([("hangs", "", 0), ("after", "", 1)], tmp_path, monkeypatch)
    assert "took too long" in found["hangs"]["error"] and found["after"]["seconds"] == 0.5


def test_no_section_begins_when_time_is_over(tmp_path, monkeypatch):
    found = drive([("good", "", 1)], tmp_path, monkeypatch, minutes=0.0)
    assert found["good"] == {"rows": [], "skipped": "no time left"}


def events_of(bench):
    return [json.loads(line) for line in bench.path.read_text().splitlines()]


def test_a_case_that_fails_is_a_row_and_the_time_is_kept(tmp_path):
    bench = Bench("x", tmp_path / "events", time.time() + 60)
    with bench.case(what="bad"):
        raise MemoryError("too large")
    assert "MemoryError: too large" in events_of(bench)[0]["row"]["error"]
    late = Bench("x", tmp_path / "late", time.time() - 1)
    assert list(late.within_time([1, 2])) == [] and events_of(late)[0]["row"] == {"left_out": ["1", "2"]}


def test_shares_are_of_what_the_card_was_measured_to_reach(tmp_path):
    bench = Bench("facts", tmp_path / "events", 0)
    bench.add(what="copy", bytes_per_s=1e12)
    with bench.path.open("a") as file:
        file.write('{"section": "fa\n\n')  # where a process was ended
    bench.add(what="bf16 product", flops_per_s=1e15)
    row = bench.shares(1e-3, 5e8, 2e11)
    assert row["bandwidth_share"] == pytest.approx(0.5) and row["flops_share"] == pytest.approx(0.2)


def test_random_models_have_all_codes_and_sane_weights():
    like = abstract_base(TINY, QuantConfig(), "bfloat16")
    base = random_like(like)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), base) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    w = np.asarray(dequantize(base["layers"]["gate_proj"], "float32"))
    assert 0.005 < w.std() < 0.05 and abs(w.mean()) < w.std() / 4
    counts = np.bincount(np.asarray(base["layers"]["gate_proj"].codes).reshape(-1), minlength=256)
    assert (counts > 0).sum() > 240 and counts.max() < 60
    assert not np.array_equal(base["layers"]["gate_proj"].codes, base["layers"]["up_proj"].codes)


def test_where_the_fused_product_stops_winning():
    rows = [
        {"shape": [4, 8], "rows": m, "way": way, "seconds": s}
        for m, fused, other in ((1, 1, 4), (8, 2, 4), (64, 5, 4))
        for way, s in (("fused", fused), ("dequantize", other))
    ]
    assert command.crossings([*rows, {"left_out": []}]) == {"[4, 8]": 8}


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_tiles_to_try_begin_with_those_that_are_used(rows):
    found = candidates(rows)
    assert len(found) == len(set(found)) >= 6
