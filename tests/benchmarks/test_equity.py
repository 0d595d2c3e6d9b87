"""The equity benchmark runs, and its peers compute what lqlm computes."""

import json
import os
import warnings

import numpy as np
import pytest

from benchmarks import equity as benchmark
from lqlm.poker.evaluator import class_rank


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_side_is_timed_and_recorded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "one_core", lambda: None)
    benchmark.main(["--hands", "2000", "--runs", "1", "--json", str(tmp_path / "rates.json")])
    rows = json.loads((tmp_path / "rates.json").read_text())["rows"]
    assert {row["who"] for row in rows} >= {"lqlm", "eval7", "phevaluator, map", "phevaluator, as documented"}
    printed = capsys.readouterr().out
    assert all(row["who"] in printed and 0 < row["median"] <= row["best"] for row in rows)


def test_a_run_is_bound_to_one_core(monkeypatch):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    bound = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: bound.append((pid, cores)))
    benchmark.one_core()
    assert bound == [(0, {min(os.sched_getaffinity(0))})]


def test_the_sides_compute_the_same(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (_, _, _, own), *_ = benchmark.own_work(500)
    (_, _, _, mapped), *_ = benchmark.phevaluator_work(500, tmp_path)
    np.testing.assert_array_equal(class_rank(own()), mapped())
