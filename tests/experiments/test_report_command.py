"""``python -m experiments.report``: the page has the panels of the algorithm whose run it is."""

import dataclasses
import json

import pytest

from experiments import report
from experiments.configdict import as_config


@pytest.mark.parametrize("algorithm", report.ALGORITHMS, ids=lambda one: one.settings.__name__)
def test_a_run_is_told_by_its_settings(algorithm):
    config = {field.name: None for field in dataclasses.fields(algorithm.settings)}
    assert report.algorithm_of(config).panels == algorithm.panels
    assert report.algorithm_of({**config, "of a later version": 1}).panels == algorithm.panels


def test_the_page_of_a_ppo_run_has_its_own_panels(tmp_path):
    config = {field.name: None for field in dataclasses.fields(report.PPO.settings)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = [{"step": n, "value_loss": 1.0 / n, "reward": 0.1 * n} for n in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.main(as_config(report.ReportSettings(run=str(tmp_path))))
    page = (tmp_path / "report.html").read_text()
    assert "Value loss" in page and "Reward per completion" in page
