"""A whole run on the tiny model: what it writes, that it compiles once, and that it learns."""

import dataclasses
import fnmatch
import json
import math
import pathlib
import types

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments import loop
from experiments.grpo.setup import build
from experiments.loop import learning_rate
from experiments.workdir import finished
from lqlm.io.checkpoint import Checkpoints
from lqlm.io.curves import PANELS
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from lqlm.optim.chains import OptimConfig
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed, tiny

METRICS = {
    "reward",
    "reward_std",
    "rewards/digits/mean",
    "frac_reward_zero_std",
    "reward_errors",
    "kl",
    "entropy",
    "ratio",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "clip_ratio/region_mean",
    "grad_norm",
    "completions/mean_length",
    "tokens_per_second/rollout",
    "tokens_per_second/logprob",
    "tokens_per_second/update",
    "compilations",
}


@pytest.fixture(scope="module")
def fresh(done):
    """A state as built, for the run's own was donated to its first update."""
    run, _ = done
    return build(run.setup.settings).state


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    return run_all(tiny(model, tmp_path_factory.mktemp("run") / "work"))


def rows(run):
    return read_jsonl(run.workdir.path / "metrics.jsonl")


def test_each_step_stands_once_in_the_metrics(done):
    run, _ = done
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3, 4]
    for row in rows(run)[1:]:
        assert row.keys() >= METRICS, METRICS - row.keys()
        assert all(math.isfinite(row[name]) for name in METRICS)
    assert [row["step"] for row in rows(run) if "eval/accuracy" in row] == [0, 2, 4]


def test_metrics_mean_what_they_say(done):
    run, _ = done
    for row in rows(run)[1:]:
        assert row["reward"] == pytest.approx(2 * row["rewards/digits/mean"])  # its weight
        assert row["clip_ratio/region_mean"] == pytest.approx(row["clip_ratio/low_mean"] + row["clip_ratio/high_mean"])
        assert row["kl"] > 0 and 0 < row["entropy"] <= math.log(run.setup.model.config.vocab_size)
        assert row["tokens"] == pytest.approx(8 * row["completions/mean_length"])
        phases = [row[f"seconds/{name}"] for name in ("rollout", "reward", "logprob", "update")]
        assert 0 < sum(phases) < row["wall"]
        assert row["tokens_per_second/update"] == pytest.approx(2 * row["tokens"] / row["seconds/update"])
    assert all("seconds/eval" in row for row in rows(run) if "eval/accuracy" in row)  # with the step that it belongs to


def test_the_second_step_compiles_nothing(done):
    run, _ = done
    assert len({len(tokens) for tokens in run.setup.prompts.tokens.values()}) > 1  # prompts of varying lengths
    counts = [row["compilations"] for row in rows(run)[1:]]
    assert counts[0] > 0 and counts[1:] == [0, 0, 0]
    summary = json.loads(run.workdir.summary.read_text())
    assert summary["compilations"] >= counts[0] and summary["compilations_after_first_step"] == 0


def test_a_late_compilation_is_noticed(model, tmp_path, monkeypatch):
    real = loop.evaluate

    def evaluate(run, state, step):
        jax.jit(lambda x: x + step)(1.0)
        return real(run, state, step)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    run, _ = run_all(tiny(model, tmp_path, steps=2))
    assert rows(run)[2]["compilations"] > 0
    assert json.loads(run.workdir.summary.read_text())["compilations_after_first_step"] > 0


def test_how_far_a_run_has_come_is_told_as_trl_tells_it(done):
    run, _ = done
    total, settings = 0, run.setup.settings
    for step, row in enumerate(rows(run)[1:], 1):
        total += row["tokens"]
        assert row["num_tokens"] == total and row["step_time"] > 0
        assert row["epoch"] == pytest.approx(step * settings.run.prompts / len(run.setup.task.train))
        assert row["learning_rate"] == pytest.approx(settings.optim.learning_rate)


def test_the_learning_rate_is_that_of_the_last_update():
    """Two updates a step, four steps: 1, 7/8, 6/8, 5/8 ... of the rate fall on updates 0, 1, 2, 3."""
    optim = OptimConfig(learning_rate=1.0, schedule="linear")
    settings = types.SimpleNamespace(optim=optim, run=types.SimpleNamespace(steps=4, updates=2))
    run = types.SimpleNamespace(setup=types.SimpleNamespace(settings=settings))
    assert [learning_rate(run, done) for done in (1, 2, 4)] == pytest.approx([7 / 8, 5 / 8, 1 / 8])


def test_samples_are_written(done):
    run, _ = done
    samples = read_jsonl(run.workdir.path / "samples.jsonl")
    assert [row["step"] for row in samples] == [1, 1, 2, 2, 3, 3, 4, 4]
    for row in samples:
        digits = sum(c.isdigit() for c in row["completion"]) / 6
        assert row["rewards"] == pytest.approx({"digits": digits, "total": 2 * digits})
        assert row["prompt"].endswith("=") and row["answer"].lstrip("-").isdigit()
        assert "".join(row["tokens"]) == row["completion"]
        lengths = {len(row[name]) for name in ("tokens", "logp", "ref_logp")}
        assert len(lengths) == 1 and max(row["logp"]) <= 0
    first = {row["advantage"] for row in samples if row["step"] == 1}
    assert first and all(isinstance(value, float) for value in first)
    page = (run.workdir.path / "report.html").read_text()
    assert page.count('class="t"') == sum(len(row["tokens"]) for row in samples)


def test_tensorboard_has_the_same_numbers(done):
    run, _ = done
    scalars = {}
    for file in (run.workdir.path / "tensorboard").iterdir():
        for event in events(file.read_bytes()):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars[value.tag, event.step] = value.simple_value
    for row in rows(run)[1:]:
        for name in METRICS:
            assert scalars[name, row["step"]] == pytest.approx(row[name], rel=1e-6)


def events(data):
    """Records are: length u64, its crc, the event, its crc."""
    while data:
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_the_curves_are_drawn_and_every_panel_finds_its_metric(done):
    run, _ = done
    assert run.workdir.curves.read_bytes().startswith(b"\x89PNG") and run.workdir.curves.stat().st_size > 5000
    names = {name for row in rows(run) for name in row}
    for panel in PANELS:
        for pattern in set(panel.names) - {"eval/reward"}:  # which is of problems without an answer
            assert fnmatch.filter(names, pattern), f"no metric is called {pattern}"


def test_the_summary_says_everything(done):
    run, state = done
    summary = json.loads(run.workdir.summary.read_text())
    assert summary["steps"] == 4 and int(state.step) == 8
    for when, step in (("before", 0), ("after", 4)):
        row = rows(run)[step]
        assert summary[when] == {name: row[name] for name in ("eval/accuracy", "eval/accuracy_strict")}
    assert all(summary[f"tokens_per_second/{phase}"] > 0 for phase in ("rollout", "logprob", "update"))
    assert summary["peak_memory_bytes"] > 1e8 and summary["compilations"] > 0
    assert summary["versions"]["jax"] == jax.__version__ and summary["git_revision"]
    assert summary["model"] == {"source": run.setup.model.source, "sha256": run.setup.model.checksum}
    assert summary["config"]["run"]["steps"] == 4 and summary["config"]["grpo"]["beta"] == 0.02
    assert summary["skipped_updates"] == 0


def test_the_adapter_is_the_final_state(done, fresh):
    run, state = done
    adapters, lora = load_peft(run.workdir.adapter, run.setup.model.config)
    assert (lora.rank, lora.alpha) == (4, 8.0)
    jax.tree.map(np.testing.assert_array_equal, adapters, jax.device_get(state.adapters))
    start = jax.device_get(fresh.adapters)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), adapters, start)
    assert all(jax.tree.leaves(moved))


def test_the_last_checkpoint_is_the_final_state(done, fresh):
    run, state = done
    checkpoints = Checkpoints(run.workdir.checkpoints, 2)
    assert checkpoints.steps() == [2, 4]
    step, restored, extra = checkpoints.restore(fresh)
    checkpoints.close()
    assert step == 4 and extra["base"]["sha256"] == run.setup.model.checksum
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))


def test_a_finished_run_is_only_reported(done, cli, model):
    run, _ = done
    path = run.workdir.path
    assert finished(run.workdir, 4) and not finished(run.workdir, 5)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file() and file.name != ".lock"}
    ended = cli(f"--config.workdir={path}")
    assert ended.status == 0 and ended.said() == []
    assert "4 steps" in ended.out and str(path / "summary.json") in ended.out
    assert before == {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file() and f.name != ".lock"}


def test_a_finished_run_can_go_on_longer_but_not_back(model, tmp_path, cli):
    run_all(tiny(model, tmp_path / "a", steps=2))
    longer, state = run_all(tiny(model, tmp_path / "a", steps=4))
    _, expected = run_all(tiny(model, tmp_path / "b", steps=4))
    assert [row["step"] for row in rows(longer)] == [0, 1, 2, 3, 4]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    line = cli(f"--config.workdir={tmp_path / 'a'}", "--config.run.steps=3").line()
    assert "step 4 already" in line and "run.steps" in line


@pytest.mark.parametrize("seed", [0, 1])
def test_the_policy_learns_the_reward(model, tmp_path, seed):
    # The shapes of the other tests, so that nothing is compiled for it.
    settings = tiny(model, tmp_path, steps=40, eval_every=0, checkpoint_every=40)
    settings = dataclasses.replace(settings, seed=seed)
    run, _ = run_all(changed(settings, "optim", learning_rate=1e-2))
    rewards = [row["reward"] for row in rows(run)[1:]]
    assert np.mean(rewards[-8:]) > np.mean(rewards[:8]) + 0.6, rewards  # the greatest is 2, a random model gets 0.2


@pytest.mark.slow
def test_the_reference_is_the_adapter_that_training_goes_on_from(done, tmp_path):
    run, _ = done
    adapter = str(run.workdir.adapter)
    settings = tiny(pathlib.Path(run.setup.settings.model.source), tmp_path / "next", steps=1, updates=1)
    again, _ = run_all(dataclasses.replace(settings, start=adapter))
    first = rows(again)[1]
    assert 0 <= first["kl"] < 1e-9  # the policy is its reference still; the base is elsewhere
    moved, _ = run_all(dataclasses.replace(settings, workdir=str(tmp_path / "bare")))
    assert rows(again)[0]["eval/accuracy"] == rows(run)[-1]["eval/accuracy"]
    assert rows(moved)[1]["reward"] != first["reward"]
