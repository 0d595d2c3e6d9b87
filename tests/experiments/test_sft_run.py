"""A whole run of supervised fine-tuning on the tiny model: what it writes, that it compiles once, that it learns."""

import dataclasses
import fnmatch
import json
import math

import jax
import numpy as np
import pytest

from experiments.sft import __main__ as sft
from experiments.sft.algorithm import PANELS, SFT
from experiments.sft.evaluate import evaluate
from lqlm.adapters.configs import Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.errors import UserError
from lqlm.io.load import load_model
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from lqlm.models.transformer import forward, logits
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed, tiny_scratch, tiny_sft

METRICS = {"loss", "nll", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm", "epoch", "fill", "compilations"}
EVALS = {"eval/loss", "eval/perplexity", "eval/mean_token_accuracy", "eval/exact_match", "eval/bleu", "eval/rougeL"}


@pytest.fixture(scope="module")
def done(model, records, tmp_path_factory):
    return run_all(tiny_sft(model, records, tmp_path_factory.mktemp("run") / "work"), SFT)


def rows(run):
    return read_jsonl(run.workdir.path / "metrics.jsonl")


def adapters_of(state):
    return jax.device_get(state.adapters)


def test_each_step_stands_once_in_the_metrics(done):
    run, _ = done
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3, 4]
    for row in rows(run)[1:]:
        assert row.keys() >= METRICS, METRICS - row.keys()
        assert all(math.isfinite(row[name]) for name in METRICS)
    evaluated = [row for row in rows(run) if row["step"] in (0, 2, 4)]
    assert all(row.keys() >= EVALS for row in evaluated)
    assert not any("eval/loss" in row for row in rows(run) if row["step"] in (1, 3))


def test_metrics_mean_what_they_say(done):
    run, _ = done
    for before, row in zip(rows(run), rows(run)[1:]):
        assert row["num_tokens"] == before.get("num_tokens", 0) + row["tokens"]
        assert row["loss"] == pytest.approx(row["nll"], rel=1e-5) and row["tokens"] > row["targets"] > 0
        assert row["tokens"] == pytest.approx(row["fill"] * 4 * 32)
        assert row["tokens_per_second/update"] == pytest.approx(row["tokens"] / row["seconds/update"])
    for row in rows(run)[::2]:
        assert row["eval/perplexity"] == pytest.approx(math.exp(row["eval/loss"]))
        assert 0 <= row["eval/mean_token_accuracy"] <= 1


def test_the_second_step_compiles_nothing(done):
    run, _ = done
    counts = [row["compilations"] for row in rows(run)[1:]]
    assert counts[0] > 0 and counts[1:] == [0, 0, 0]
    assert json.loads(run.workdir.summary.read_text())["compilations_after_first_step"] == 0


def test_samples_curves_and_summary(done):
    run, state = done
    samples = read_jsonl(run.workdir.path / "samples.jsonl")
    assert [row["step"] for row in samples] == [0, 0, 2, 2, 4, 4]
    assert all(row["prompt"].endswith("=") and row["answer"].strip("!").isdigit() for row in samples)
    names = {name for row in rows(run) for name in row}
    assert all(fnmatch.filter(names, pattern) for panel in PANELS for pattern in panel.names)
    assert run.workdir.curves.read_bytes().startswith(b"\x89PNG")
    summary = json.loads(run.workdir.summary.read_text())
    assert (summary["steps"], summary["steps_done"], summary["result_of_step"]) == (4, 4, 4)
    assert summary["before"] == {name: rows(run)[0][name] for name in summary["before"]}
    assert summary["after"]["eval/loss"] == rows(run)[4]["eval/loss"] and int(state.step) == 4


def test_the_adapter_is_the_final_state(done):
    run, state = done
    adapters, lora = load_peft(run.workdir.adapter, run.setup.model.config)
    assert (lora.rank, lora.alpha) == (4, 8.0)
    chosen = lambda tree: jax.tree.leaves(tree)  # noqa: E731
    for found, want in zip(chosen(adapters), chosen(adapters_of(state)), strict=True):
        np.testing.assert_array_equal(found, want)


def test_packed_and_single_rows_are_evaluated_alike(done, model, records, tmp_path):
    settings = tiny_sft(model, records, tmp_path, packing=False, length=0, generate=0)
    setup = SFT.build(settings)
    assert setup.data.length % 16 == 0 and setup.data.heldout.segments_BT.max() == 1
    packed, _ = done
    single = dataclasses.replace(packed, setup=setup)
    found, before = evaluate(single, setup.state, 0), rows(packed)[0]
    assert len(setup.data.heldout.tokens_BT) == 8 > len(packed.setup.data.heldout.tokens_BT)
    for name in ("eval/loss", "eval/mean_token_accuracy"):
        assert found[name] == pytest.approx(before[name], rel=1e-5)


def test_it_learns(model, records, tmp_path):
    # The shapes of the other tests, so that nothing is compiled for it.
    settings = tiny_sft(model, records, tmp_path, steps=40, eval_every=0, checkpoint_every=40)
    run, _ = run_all(changed(settings, "optim", learning_rate=1e-2), SFT)
    first, last = rows(run)[0], rows(run)[-1]
    assert last["eval/perplexity"] < first["eval/perplexity"] / 4
    assert last["eval/mean_token_accuracy"] > first["eval/mean_token_accuracy"] + 0.2


def test_dft_is_another_loss(model, records, tmp_path):
    run, _ = run_all(tiny_sft(model, records, tmp_path, steps=1, loss="dft", eval_every=0, generate=0), SFT)
    row = rows(run)[1]
    assert 0 < row["loss"] < row["nll"] / 2


def scripted(losses, seen):
    """SFT with held-out losses that were written beforehand; ``seen`` gets the adapters of each evaluation."""

    def evaluate(run, state, step):
        seen[step] = adapters_of(state)
        return {"eval/loss": losses[step]}

    return dataclasses.replace(SFT, evaluate=evaluate)


LOSSES = [5.0, 3.0, 2.0, math.nan, 2.5, 1.0]


@pytest.fixture
def patient(model, records, tmp_path):
    return tiny_sft(model, records, tmp_path / "work", steps=5, eval_every=1, patience=2, checkpoint_every=1)


def test_patience_ends_the_run_and_leaves_the_best_adapters(patient, capsys):
    seen = {}
    run, state = run_all(patient, scripted(LOSSES, seen))
    assert sorted(seen) == [0, 1, 2, 3, 4]  # the loss of 1.0 at step 5 is never seen
    jax.tree.map(np.testing.assert_array_equal, adapters_of(state), seen[2])
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (seen[2], seen[4]))))
    adapters, _ = load_peft(run.workdir.adapter, run.setup.model.config)
    for found, want in zip(jax.tree.leaves(adapters), jax.tree.leaves(seen[2]), strict=True):
        np.testing.assert_array_equal(found, want)
    summary = json.loads(run.workdir.summary.read_text())
    assert (summary["steps"], summary["steps_done"], summary["result_of_step"]) == (5, 4, 2)
    assert summary["after"] == {"eval/loss": 2.0}


@pytest.mark.parametrize("dies_at", [1, 3, 4])
def test_a_patient_run_that_was_interrupted_ends_the_same(patient, dies_at):
    whole = scripted(LOSSES, {})
    run, expected = run_all(dataclasses.replace(patient, workdir=patient.workdir + "b"), whole)

    def one_step(run, state, step):
        if step == dies_at:
            raise KeyboardInterrupt
        return SFT.one_step(run, state, step)

    if dies_at < 4:
        with pytest.raises(KeyboardInterrupt):
            run_all(patient, dataclasses.replace(whole, one_step=one_step))
    else:  # after its last step, while the result is written
        with pytest.raises(KeyboardInterrupt):
            run_all(patient, dataclasses.replace(whole, save=lambda run, state: one_step(run, state, dies_at)))
    again, state = run_all(patient, whole)
    jax.tree.map(np.testing.assert_array_equal, adapters_of(state), adapters_of(expected))
    assert [row["loss"] for row in rows(again)[1:]] == [row["loss"] for row in rows(run)[1:]]
    assert json.dumps(again.history) == json.dumps(run.history)  # there is a NaN in it


ADAPTERS = {
    "dora": LoraConfig(rank=2, dora=True, targets=("q_proj", "down_proj")),
    "loftq": LoraConfig(rank=2, init="loftq", targets=("q_proj",)),  # changes the base as well
    "ia3": Ia3Config(),
    "prompt": PromptConfig(tokens=3),
    "prefix": PrefixConfig(tokens=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_kind_of_adapter_is_trained_and_saved(model, records, tmp_path, kind):
    settings = tiny_sft(model, records, tmp_path, steps=1, eval_every=0, generate=0, remat="none")
    run, state = run_all(dataclasses.replace(settings, adapter=ADAPTERS[kind]), SFT)
    start = SFT.build(run.setup.settings).state
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, map(adapters_of, (start, state))))]
    assert any(moved) and (run.workdir.adapter / "adapter_config.json").is_file()


@pytest.mark.slow
def test_a_model_from_scratch(records, tmp_path):
    settings = tiny_scratch("", tmp_path / "work", steps=12, eval_every=6, patience=0)
    run, state = run_all(settings, SFT)
    before, after = rows(run)[0], rows(run)[-1]
    size = run.setup.model.config.vocab_size
    assert size <= 300 and before["eval/perplexity"] == pytest.approx(size, rel=0.05)  # it guesses
    assert after["eval/perplexity"] < before["eval/perplexity"] / 3
    loaded = load_model(str(run.workdir.model), None, "float32")
    assert loaded.tokenizer.encode("What is 3 + 4?") == run.setup.model.tokenizer.encode("What is 3 + 4?")
    tokens = np.asarray([[5, 9, 2, 7]], np.int32)
    of = lambda base: logits(base, forward(base, None, tokens, np.ones((1, 4), bool), loaded.config))  # noqa: E731
    np.testing.assert_array_equal(of(loaded.base), of(state.adapters["full"]))


@pytest.mark.slow
def test_a_run_from_a_stream_goes_on_where_it_stopped(model, records, tmp_path):
    def settings(folder, steps):
        found = tiny_sft(model, records, tmp_path / folder, steps=steps, generate=0)
        streamed = {"stream": True, "heldout_source": str(records), "buffer": 7, "shuffle_buffer": 5}
        return changed(found, "data", **streamed)

    run_all(settings("a", 2), SFT)
    longer, state = run_all(settings("a", 4), SFT)
    alone, expected = run_all(settings("b", 4), SFT)
    assert [row["loss"] for row in rows(longer)[1:]] == [row["loss"] for row in rows(alone)[1:]]
    assert longer.history == alone.history and longer.history["data"][0] > 0
    jax.tree.map(np.testing.assert_array_equal, adapters_of(state), adapters_of(expected))


def test_a_finished_run_is_only_reported(done, cli, model, records):
    run, _ = done
    before = run.workdir.summary.stat().st_mtime_ns
    config = f"tests/experiments/tiny_sft_config.py:{model},{records}"
    ended = cli(f"--config.workdir={run.workdir.path}", config=config, module=sft)
    assert ended.status == 0 and ended.said() == []
    assert "perplexity" in ended.out and "adapter/" in ended.out
    assert run.workdir.summary.stat().st_mtime_ns == before


def test_help_shows_the_command_and_every_section(cli, model, records):
    ended = cli("--help", config=f"tests/experiments/tiny_sft_config.py:{model},{records}", module=sft)
    assert (ended.status, ended.err) == (0, "")
    for word in ("python -m experiments.sft", "--config.data.source=", "--config.text.max_length=24", "perplexity"):
        assert word in ended.out
    assert "--config.adapter.kind=lora" in ended.out and "one of lora, ia3, prompt, prefix, full" in ended.out
    assert max(len(line) for line in ended.out.splitlines() if str(model) not in line) <= 120


def test_training_goes_on_from_an_adapter(done, tmp_path):
    run, state = done
    adapter = str(run.workdir.adapter)
    settings = dataclasses.replace(run.setup.settings, workdir=str(tmp_path / "next"), start=adapter)
    setup = SFT.build(settings)
    jax.tree.map(np.testing.assert_array_equal, adapters_of(setup.state), adapters_of(state))
    assert setup.state.step == 0
    with pytest.raises(UserError, match=r"start=.*adapter: .*\.a is \(.* there and \(.* by the"):
        SFT.build(changed(settings, "adapter", rank=settings.adapter.rank * 2))
    with pytest.raises(UserError, match="begins with is not in a PEFT directory"):
        changed(settings, "adapter", init="pissa")
