"""Reward models on single texts: whole runs by classification and by regression."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.configdict import as_config, from_config
from experiments.dpo.settings import DPOExperiment
from experiments.pairs.data import found_records
from experiments.pairs.settings import PairData
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.reward_model.judges import correlation, single_judge
from experiments.reward_model.settings import RewardModelExperiment
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.errors import UserError
from lqlm.io.metrics import read_jsonl
from lqlm.tasks.scored import ScoredConfig
from tests.experiments.conftest import run_all, run_killed
from tests.experiments.tiny_model import changed
from tests.experiments.tiny_pairs import tiny_reward_model

TELL = {
    "classification": {"eval/accuracy", "eval/loss", "eval/calibration_error", "eval/mean_reward"},
    "regression": {"eval/error", "eval/loss", "eval/correlation", "eval/mean_reward"},
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Digits are worth 1 (or true), letters 0; completions of varying lengths."""
    path = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    rows = (
        {
            "prompt": f"{i}" + "+" * (i % 3),
            "completion": "17935"[: 1 + i % 4] if i % 2 else "xyz"[: 1 + i % 3],
            "score": bool(i % 2),
        }
        for i in range(30)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def single(model, data, workdir, loss, **run):
    settings = tiny_reward_model(model, data, workdir, **run)
    text = ScoredConfig(max_prompt=40, max_completion=16)
    return dataclasses.replace(settings, text=text, reward=RewardModelConfig(loss))


@pytest.mark.parametrize("loss", TELL)
def test_it_learns_compiles_once_and_says_how_well(loss, model, scored, tmp_path):
    settings = single(model, scored, tmp_path, loss, steps=16, eval_every=8, checkpoint_every=8)
    run, _ = run_all(changed(settings, "optim", learning_rate=2e-2), REWARD_MODEL)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert {name for name in rows[0] if name.startswith("eval/")} == TELL[loss]
    assert rows[16]["eval/loss"] < 0.7 * rows[0]["eval/loss"]
    step = {"loss", "mean_reward", "tokens", {"classification": "accuracy", "regression": "error"}[loss]}
    assert all(row.keys() >= step and all(math.isfinite(row[name]) for name in step) for row in rows[1:])
    assert all(row["compilations"] == 0 for row in rows[2:])
    told = read_jsonl(tmp_path / "samples.jsonl")[-1]
    assert told["rewards"].keys() == {"score", "target"} and told["rewards"]["target"] in (0.0, 1.0)
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    held = run.setup.data.heldout
    assert len(held) == 6 and {tuple(r.prompt) for r in held}.isdisjoint(tuple(r.prompt) for r in run.setup.data.train)


@pytest.mark.slow
def test_killed_it_goes_on_bit_equal(model, scored, tmp_path):
    whole, _ = run_all(single(model, scored, tmp_path / "whole", "regression"), REWARD_MODEL)
    settings = single(model, scored, tmp_path / "killed", "regression")
    run_killed(settings, REWARD_MODEL, at=3)
    again, _ = run_all(settings, REWARD_MODEL)
    one, other = ((run.workdir.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, again))
    assert one == other


def test_held_out_texts_are_judged_by_their_targets():
    scores, targets = np.array([[2.0], [-1.0], [0.5]], np.float32), np.array([1.0, 0.0, 0.0], np.float32)
    found = single_judge(RewardModelConfig("classification"), 10)(scores, targets)
    assert float(found["accuracy"]) == pytest.approx(2 / 3) and float(found["mean_reward"]) == pytest.approx(0.5)
    sure = 1 / (1 + np.exp(-np.abs(scores[:, 0])))
    right = np.array([1.0, 1.0, 0.0])
    assert float(found["calibration_error"]) == pytest.approx(np.abs(right - sure).mean(), rel=1e-5)  # a bin each
    found = single_judge(RewardModelConfig("regression"), 10)(scores, targets)
    assert float(found["error"]) == pytest.approx((1 + 1 + 0.5) / 3)
    assert float(found["correlation"]) == pytest.approx(np.corrcoef(scores[:, 0], targets)[0, 1], rel=1e-5)
    assert float(correlation(scores[:, 0], np.ones(3, np.float32))) == 0.0


def test_without_a_file_there_are_right_and_wrong_answers():
    rows = found_records(PairData(limit=40), single=True)
    assert [row.fields["score"] for row in rows] == [bool(i % 2) for i in range(40)]
    asked = {row.fields["prompt"].split("What is ")[1].split("?")[0]: row.fields for row in rows}
    assert all((eval(sum_) == int(fields["completion"])) == fields["score"] for sum_, fields in asked.items())


def test_a_text_is_of_one_kind(model, scored, tmp_path):
    settings = single(model, scored, tmp_path, "regression")
    config = as_config(settings)
    assert config.text.kind == "scored" and from_config(RewardModelExperiment, config) == settings
    with pytest.raises(UserError, match=r"single texts with scores; set classification or regression, and center 0"):
        dataclasses.replace(settings, reward=RewardModelConfig())
    with pytest.raises(UserError, match=r"reward\.loss is 'regression'"):
        tiny = tiny_reward_model(model, scored, tmp_path)
        dataclasses.replace(tiny, reward=RewardModelConfig("regression"))
    with pytest.raises(UserError, match=r"config\.text\.completion is no setting"):
        from_config(DPOExperiment, as_config({"workdir": "x", "text": as_config(settings).text}))


def test_scores_are_no_labels(model, scored, tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(scored.read_text() + json.dumps({"prompt": "a", "completion": "b", "score": 7}) + "\n")
    with pytest.raises(UserError, match="'a' has the score 7, and classification takes labels from 0 to 1"):
        run_all(single(model, path, tmp_path / "work", "classification"), REWARD_MODEL)
