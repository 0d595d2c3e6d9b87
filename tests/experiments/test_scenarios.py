"""Runs on prompts of a file, and on several scenarios at once, each judged by its own rewards."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.configdict import as_config, from_config
from experiments.grpo.settings import Dynamic, GRPOExperiment
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.ppo.algorithm import PPO
from experiments.r1.settings import AlignmentStage, JudgeSettings
from experiments.r1.stages import alignment, rejection
from experiments.rollouts.prompts import build_task, encode
from experiments.rollouts.settings import MixtureSettings, RewardModelSettings, RewardSettings
from lqlm.errors import UserError
from lqlm.io.metrics import read_jsonl
from lqlm.tasks.pairs import PairConfig
from lqlm.tasks.prompts import PromptsConfig
from tests.experiments.conftest import run_all
from tests.experiments.test_r1 import tiny_r1
from tests.experiments.tiny_model import tiny
from tests.experiments.tiny_ppo import tiny_ppo

DIGITS = RewardSettings("tests.experiments.rewards.digits", 2.0)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A file of twelve prompts without answers, of one to twelve letters."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "abcdefghijkl"[: n + 1]}) + "\n" for n in range(12)))
    return path


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A file of pairs of dialogues with eight different prompts."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = ({side: f"\n\nHuman: {n}?\n\nAssistant: {side[0]}{n}" for side in ("chosen", "rejected")} for n in range(8))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixed(model, workdir, file, judge, **run):
    """Sums, whose answers are checked, beside prompts that a reward model judges."""
    settings = tiny(model, workdir, **run)
    general = PromptsConfig(source=str(file), heldout=4)
    return dataclasses.replace(
        settings,
        task=MixtureSettings({"sums": settings.task, "general": general}),
        rewards={"digits": dataclasses.replace(DIGITS, scenarios=("sums",))},
        reward_model=RewardModelSettings(str(judge), 0.5, ("general",)),
    )


def test_grpo_on_two_scenarios(model, judged, prompts, tmp_path):
    run, _ = run_all(mixed(model, tmp_path, prompts, judged[1], samples=8))
    rows, samples = read_jsonl(tmp_path / "metrics.jsonl"), read_jsonl(tmp_path / "samples.jsonl")
    assert {name for name in rows[0] if "accuracy" in name or "reward" in name} == {
        "eval/accuracy", "eval/accuracy_strict", "eval/accuracy/sums", "eval/reward",
    }  # fmt: skip
    assert rows[0]["eval/accuracy"] == rows[0]["eval/accuracy/sums"]
    of = {item.question: item.scenario for item in run.setup.task.train}
    judges = {"sums": "digits", "general": "reward_model"}
    assert {of[sample["prompt"]] for sample in samples} == set(judges)
    for sample in samples:
        name, weight = judges[of[sample["prompt"]]], {"sums": 2.0, "general": 0.5}[of[sample["prompt"]]]
        assert sample["rewards"].keys() == {"total", name}
        assert sample["rewards"]["total"] == pytest.approx(weight * sample["rewards"][name], rel=1e-5)
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows[1:])
    for step, row in enumerate(rows[1:], 1):
        values = [s["rewards"]["digits"] for s in samples if s["step"] == step and "digits" in s["rewards"]]
        assert row["rewards/digits/mean"] == (pytest.approx(np.mean(values)) if values else None)


def test_a_problem_with_an_answer_has_no_part_in_the_held_out_reward(model, judged, prompts, tmp_path):
    settings = mixed(model, tmp_path, prompts, judged[1], steps=1, eval_every=0)
    huge = RewardSettings("lqlm.rewards.functions.length_penalty", params={"per_token": 1e4}, scenarios=("sums",))
    run_all(dataclasses.replace(settings, rewards={"huge": huge}))
    assert abs(read_jsonl(tmp_path / "metrics.jsonl")[0]["eval/reward"]) < 100


def test_a_step_may_have_none_of_a_scenario(model, judged, prompts, tmp_path):
    """Then its components say null, and nothing is not a number."""
    settings = mixed(model, tmp_path, prompts, judged[1], prompts=1, micro_batches=1, eval_every=0, steps=3)
    run_all(dataclasses.replace(settings, resampling=Dynamic(rounds=1, component="reward_model")))
    rows = read_jsonl(tmp_path / "metrics.jsonl")[1:4]
    assert any(row["rewards/digits/mean"] is None for row in rows)
    assert all(math.isfinite(row["reward"]) and math.isfinite(row["loss"]) for row in rows)


def test_prompts_without_answers_are_watched_by_their_reward(model, prompts, tmp_path):
    """No accuracy is told, since nothing could be right; patience looks at the held-out reward."""
    settings = tiny(model, tmp_path, steps=6, eval_every=1, patience=2)
    settings = dataclasses.replace(settings, task=PromptsConfig(source=str(prompts), heldout=4))
    settings = dataclasses.replace(settings, rewards={"digits": DIGITS})
    run_all(settings)
    found = [row["eval/reward"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "eval/reward" in row]
    assert "Held-out reward (greedy)" in (tmp_path / "report.html").read_text()
    assert not any("accuracy" in name for row in read_jsonl(tmp_path / "metrics.jsonl") for name in row)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["result_of_step"] == int(np.argmax(found)) and summary["after"]["eval/reward"] == max(found)
    texts = [row for row in read_jsonl(tmp_path / "samples.jsonl") if row["step"] == 1]
    assert all(row["answer"] == "" for row in texts)


def test_a_reward_that_fails_on_all_held_out_problems_is_counted(model, prompts, tmp_path):
    """The batch is filled up with copies of the only one, so that it fails on every sample of it, at every start."""
    task = PromptsConfig(source=str(prompts), heldout=1)
    (held,) = build_task(task).heldout
    fails = RewardSettings("tests.experiments.rewards.fails_on", params={"which": held.question})
    settings = dataclasses.replace(tiny(model, tmp_path, steps=1), task=task, rewards={"fails": fails})
    run_all(settings)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[0]["eval/reward"] == 0.0 and rows[1]["reward"] == 1.0


def test_held_out_rewards_are_means_of_the_greedy_answers(model, prompts, tmp_path, monkeypatch):
    """The last batch is filled up with a copy, which must not count."""
    settings = tiny(model, tmp_path, steps=1, eval_every=0, eval_batch=3)
    settings = dataclasses.replace(settings, task=PromptsConfig(source=str(prompts), heldout=4))
    seen = []
    monkeypatch.setattr("tests.experiments.rewards.digits", lambda completion: seen.append(completion) or len(seen))
    run_all(dataclasses.replace(settings, rewards={"n": RewardSettings("tests.experiments.rewards.digits")}))
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["eval/reward"] == (1 + 2 + 3 + 4) / 4 and len(seen) > 6


def test_ppo_from_a_reward_model_on_prompts(model, judged, dialogues, tmp_path):
    """RLHF as it is usually told: the prompts of the pairs, and what was learned from the pairs."""
    settings = tiny_ppo(model, tmp_path, steps=2)
    settings = dataclasses.replace(
        settings,
        task=PromptsConfig(source=str(dialogues), prompt="chosen", heldout=2),
        rewards={},
        reward_model=RewardModelSettings(str(judged[1])),
    )
    run_all(settings, PPO)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert "eval/reward" in rows[0] and rows[1]["reward"] == pytest.approx(rows[1]["rewards/reward_model/mean"])


def test_prompts_that_are_too_long_are_left_out(model, prompts, tmp_path, caplog):
    settings = tiny(model, tmp_path, max_prompt=14)
    task = build_task(PromptsConfig(source=str(prompts), heldout=4))
    from experiments import trained

    loaded = trained.load(settings.model, settings.adapter)
    kept, found = encode(task, loaded, settings)
    lengths = {len(loaded.tokenizer.chat(task.messages(item))) for item in (*kept.train, *kept.heldout)}
    assert 0 < len(kept.train) + len(kept.heldout) < 12 and max(lengths) == 14 and found.buckets == (16,)
    assert "of 12 prompts have more than 14 tokens and are left out" in caplog.text
    with pytest.raises(UserError, match=r"run\.max_prompt is 3: no prompt of one side is so short"):
        encode(task, loaded, tiny(model, tmp_path, max_prompt=3))


def test_scenarios_are_settings_as_all_others(model, prompts, judged, tmp_path):
    settings = mixed(model, tmp_path, prompts, judged[1])
    config = as_config(settings)
    assert from_config(GRPOExperiment, config) == settings
    config.task.tasks.general.heldout = 2
    config.task.tasks.sums.operands = (0, 5)
    changed = from_config(GRPOExperiment, config)
    assert changed.task.tasks["general"].heldout == 2 and changed.task.tasks["sums"].operands == (0, 5)
    config.reward_model.scenarios = ("generals",)
    with pytest.raises(UserError, match="reward_model: there is no scenario generals; the task's are general, sums"):
        run_all(from_config(GRPOExperiment, config))


@pytest.mark.slow
def test_the_last_stage_of_r1_has_all_scenarios(model, dialogues, tmp_path):
    """Rules judge the problems, a reward model of given pairs the dialogues; others' records are learned too."""
    settings = tiny_r1(model, tmp_path / "r1")
    others = tmp_path / "others.jsonl"
    rows = [{"instruction": "Sort.", "output": "1 2"}, {"prompt": "a", "completion": "b"}]
    others.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_all(tiny(model, tmp_path / "r1/reasoning", steps=1, eval_every=0))
    stage = settings.rejection
    settings = dataclasses.replace(
        settings,
        rejection=dataclasses.replace(stage, others=str(others), most_others=2, examples=5, threshold=0.0),
        alignment=AlignmentStage(
            judge=JudgeSettings(
                weight=0.5,
                scenarios=("general",),
                data=PairData(source=str(dialogues), heldout=2),
                text=PairConfig(max_prompt=32, max_completion=8),
                run=PairRunSettings(steps=1, pairs=2, eval_every=0, eval_batch=2, checkpoint_every=1),
            ),
            others={"general": PromptsConfig(source=str(dialogues), prompt="chosen", heldout=2)},
            rewards={"digits": dataclasses.replace(DIGITS, scenarios=("reasoning",))},
            sampling=settings.alignment.sampling,
            run=dataclasses.replace(settings.alignment.run, prompts=4, samples=8, max_prompt=40),
        ),
    )
    rejection(settings)
    learned = read_jsonl(tmp_path / "r1/rejection/conversations.jsonl")
    assert len(learned) == 7 and learned[5:] == rows
    alignment(settings)
    assert not (tmp_path / "r1/alignment/pairs.jsonl").exists()
    told = [set(row["rewards"]) - {"total"} for row in read_jsonl(tmp_path / "r1/alignment/samples.jsonl")]
    assert {"digits"} in told and {"reward_model"} in told and {"digits", "reward_model"} not in told
    before = read_jsonl(tmp_path / "r1/alignment/metrics.jsonl")[0]
    assert {"eval/accuracy/reasoning", "eval/reward"} <= set(before)


def test_the_own_scenario_of_r1_keeps_its_name(prompts):
    with pytest.raises(UserError, match=r"alignment\.others has 'reasoning'"):
        AlignmentStage(rewards={}, others={"reasoning": PromptsConfig(source=str(prompts))})
