"""Whole runs of a reward model and of DPO on the tiny model: what they write, that they compile once and learn."""

import dataclasses
import fnmatch
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.dpo import __main__ as dpo
from experiments.dpo.algorithm import DPO
from experiments.dpo.setup import build
from experiments.pairs.data import found_records, made
from experiments.pairs.settings import PairData
from experiments.reward_model import __main__ as reward_model
from experiments.reward_model.algorithm import REWARD_MODEL
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from lqlm.io.reward_model import load_reward_model
from lqlm.models.heads import sequence_scores
from lqlm.tasks.pair_texts import turns
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed
from tests.experiments.tiny_pairs import save_pairs, tiny_dpo, tiny_reward_model
from tests.tiny import pad

KINDS = {"reward_model": (tiny_reward_model, REWARD_MODEL), "dpo": (tiny_dpo, DPO)}
MODULES = {"reward_model": reward_model, "dpo": dpo}
METRICS = {
    "reward_model": {"min_reward", "mean_reward", "max_reward", "accuracy", "margin"},
    "dpo": {
        *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "entropy"),
        *("logits/chosen", "logits/rejected", "mean_token_accuracy", "wpo_weight"),
    },
}
EVALS = {
    "reward_model": {"eval/accuracy", "eval/loss", "eval/calibration_error", "eval/margin", "eval/mean_reward"},
    "dpo": {"eval/rewards/accuracies", "eval/loss", "eval/rewards/margins", "eval/logps/accuracies"},
}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return save_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture(scope="module", params=KINDS)
def done(request, model, pairs, tmp_path_factory):
    """Enough steps to learn something; the shapes of the other tests."""
    make, algorithm = KINDS[request.param]
    settings = make(model, pairs, tmp_path_factory.mktemp("run") / "work", steps=12, eval_every=6, checkpoint_every=6)
    return request.param, *run_all(changed(settings, "optim", learning_rate=2e-2), algorithm)


def rows(run):
    return read_jsonl(run.workdir.path / "metrics.jsonl")


def leaves(tree):
    return jax.tree.leaves(jax.device_get(tree))


def test_metrics_of_each_step(done):
    name, run, _ = done
    assert [row["step"] for row in rows(run)] == list(range(13))
    common = {"loss", "tokens", "num_tokens", "epoch", "grad_norm", "finite", "compilations", "seconds/update"}
    for row in rows(run)[1:]:
        assert row.keys() >= common | METRICS[name], (common | METRICS[name]) - row.keys()
        assert all(math.isfinite(row[key]) for key in common | METRICS[name])
    evaluated = [row["step"] for row in rows(run) if "eval/loss" in row]
    assert evaluated == [0, 6, 12] and all(rows(run)[i].keys() >= EVALS[name] for i in evaluated)
    assert rows(run)[12]["num_tokens"] == sum(row["tokens"] for row in rows(run)[1:])
    assert rows(run)[12]["epoch"] == pytest.approx(12 * 4 / 24)


def test_the_second_step_compiles_nothing(done):
    _, run, _ = done
    counts = [row["compilations"] for row in rows(run)[1:]]
    assert counts[0] > 0 and not any(counts[1:])


def test_it_learns(done):
    name, run, _ = done
    first, last = rows(run)[0], rows(run)[-1]
    accuracy = {"reward_model": "eval/accuracy", "dpo": "eval/rewards/accuracies"}[name]
    assert last[accuracy] >= 5 / 6 and last["eval/loss"] < 0.8 * first["eval/loss"]


def test_before_the_first_step_the_policy_is_the_reference(done):
    name, run, _ = done
    first = rows(run)[0]
    if name == "dpo":
        assert first["eval/rewards/accuracies"] == first["eval/rewards/margins"] == 0.0
        assert first["eval/loss"] == pytest.approx(math.log(2))
    else:
        assert 0 <= first["eval/calibration_error"] <= 0.5


def test_samples_curves_and_summary(done):
    name, run, _ = done
    samples = read_jsonl(run.workdir.path / "samples.jsonl")
    assert [row["step"] for row in samples] == [0, 0, 6, 6, 12, 12]
    assert all(row["rewards"].keys() == {"chosen", "rejected"} and row["completion"].isdigit() for row in samples)
    names = {name for row in rows(run) for name in row}
    patterns = {pattern for panel in KINDS[name][1].panels for pattern in panel.names} - {"eval/correlation"}
    assert all(fnmatch.filter(names, pattern) for pattern in patterns)  # the correlation is one of single texts
    summary = json.loads(run.workdir.summary.read_text())
    assert summary["before"]["eval/loss"] == rows(run)[0]["eval/loss"]
    assert summary["after"]["eval/loss"] == rows(run)[12]["eval/loss"]


def test_what_is_saved_is_the_final_state(done):
    name, run, state = done
    load = load_reward_model if name == "reward_model" else load_peft
    tree, cfg = load(run.workdir.adapter, run.setup.model.config)
    assert (cfg.rank, cfg.alpha) == (4, 8.0)
    for found, want in zip(leaves(tree), leaves(state.adapters), strict=True):
        np.testing.assert_array_equal(found, want)
    if name == "reward_model":
        assert float(tree["score"]["bias"]) == 0.0 and float(jnp.abs(tree["score"]["kernel"]).max()) > 0


def test_a_saved_reward_model_gives_the_rewards_of_the_samples(done):
    """Read back by itself, and asked about whole rows instead of pairs."""
    name, run, _ = done
    if name != "reward_model":
        return
    setup = run.setup
    tree, _ = load_reward_model(run.workdir.adapter, setup.model.config)
    pair, told = setup.data.heldout[0], read_jsonl(run.workdir.path / "samples.jsonl")[-2]["rewards"]
    tokens, mask = pad([np.array(pair.prompt + side) for side in (pair.chosen, pair.rejected)], 24, "right")
    found = jax.jit(lambda: sequence_scores(setup.model.base, tree, tokens, mask, setup.model.config))()
    np.testing.assert_allclose(found, [told["chosen"], told["rejected"]], atol=1e-4)


def test_an_interrupted_run_ends_as_if_left_alone(done, tmp_path):
    """Stopped in its eighth step, after the checkpoint of the sixth: not one bit differs."""
    name, alone, expected = done
    algorithm = KINDS[name][1]
    settings = dataclasses.replace(alone.setup.settings, workdir=str(tmp_path / "killed"))

    def one_step(run, state, step):
        if step == 7:
            raise KeyboardInterrupt
        return algorithm.one_step(run, state, step)

    with pytest.raises(KeyboardInterrupt):
        run_all(settings, dataclasses.replace(algorithm, one_step=one_step))
    again, state = run_all(settings, algorithm)
    jax.tree.map(np.testing.assert_array_equal, leaves(state.adapters), leaves(expected.adapters))
    jax.tree.map(np.testing.assert_array_equal, leaves(state.opt_state), leaves(expected.opt_state))
    assert [row["loss"] for row in rows(again)[1:]] == [row["loss"] for row in rows(alone)[1:]]
    assert again.history == alone.history


def test_wpo_weighs_the_held_out_pairs_too(model, pairs, tmp_path):
    """Before the first step each pair's loss is its weight times log 2."""
    setup = build(changed(tiny_dpo(model, pairs, tmp_path), "dpo", wpo=True, sft_weight=0.0))
    ((_, batch),) = setup.data.heldout_batches(6, 0, None)
    sums = setup.functions.sums(setup.model.base, setup.state.adapters, batch)
    assert len(set(np.asarray(sums.weight).round(6).tolist())) == 6 and np.all(sums.weight > 0)
    assert float(setup.functions.judge(sums)["loss"]) == pytest.approx(
        math.log(2) * float(sums.weight.mean()), rel=1e-4
    )


def test_everybody_has_pairs():
    """Right and wrong answers, always the same; the wrong one is near."""
    found, again = (found_records(PairData(limit=40)) for _ in range(2))
    assert found == again and len(found) == 40
    for record in found:
        asked, right = turns(record.fields["chosen"])
        _, wrong = turns(record.fields["rejected"])
        question = asked["content"].removeprefix("What is ").partition("?")[0]
        assert eval(question) == int(right["content"]) and 1 <= abs(int(wrong["content"]) - int(right["content"])) <= 9
    assert len({record.where for record in made()}) == 800


@pytest.mark.parametrize("name", KINDS)
def test_help_and_a_finished_run(cli, model, pairs, done, name):
    kind, run, _ = done
    if kind != name:
        return
    config = f"tests/experiments/tiny_pairs.py:{name},{model},{pairs}"
    ended = cli("--help", config=config, module=MODULES[name])
    assert (ended.status, ended.err) == (0, "")
    for word in (f"python -m experiments.{name}", "--config.data.heldout=6", "--config.text.max_prompt=40"):
        assert word in ended.out
    changes = ("--config.run.steps=12", "--config.run.eval_every=6", "--config.run.checkpoint_every=6")
    where = (f"--config.workdir={run.workdir.path}", "--config.optim.learning_rate=2e-2")
    ended = cli(*where, *changes, config=config, module=MODULES[name])
    assert ended.status == 0 and "12 steps" in ended.out and "adapter/" in ended.out, ended
