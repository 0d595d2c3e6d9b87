"""The command experiments.export: what it writes computes what model and adapter compute together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export as command
from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.io.load import load_model
from lqlm.io.peft import save_peft
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QTensor, QuantConfig
from tests.tiny import tiny_adapters

CONFIG = "configs/export_smollm2.py"
TOKENS, MASK = jnp.arange(3, 15).reshape(2, 6), jnp.ones((2, 6), bool)
LORA = LoraConfig(rank=3, alpha=6.0)


@pytest.fixture
def export(cli, model, tmp_path):
    """``export(name, *arguments)``: the command on the tiny model, and where it wrote to."""

    def call(name, *arguments):
        out = tmp_path / name
        given = (f"--config.model.source={model}", f"--config.out={out}", *arguments)
        return cli(*given, config=CONFIG, module=command, settings=command.ExportSettings), out

    return call


@pytest.fixture
def adapter(model, tmp_path):
    """A PEFT directory, and the logits of the 4-bit model with it."""
    loaded = load_model(str(model), QuantConfig(), "float32")
    adapters = tiny_adapters(jax.random.key(1), loaded.base)
    save_peft(tmp_path / "adapter", adapters, LORA, loaded.config, str(model))
    return tmp_path / "adapter", scores(loaded, adapters)


def scores(loaded, adapters=None):
    return logits(loaded.base, forward(loaded.base, adapters, TOKENS, MASK, loaded.config))


@pytest.mark.parametrize(
    ("name", "arguments", "tolerance"),
    [
        ("merged", ("--config.dtype=float32",), 1e-5),
        ("merged.gguf", ("--config.gguf=F32",), 1e-5),
        ("merged", ("--config.dtype=bfloat16",), 0.1),
    ],
)
def test_merged_computes_what_base_and_adapter_do(export, adapter, name, arguments, tolerance):
    folder, want = adapter
    ended, out = export(name, f"--config.adapter={folder}", *arguments)
    assert (ended.status, ended.err) == (0, "") and "down_proj" in ended.out and str(out) in ended.out
    found = scores(load_model(str(out), None, "float32"))
    np.testing.assert_allclose(found, want, atol=tolerance * float(jnp.abs(want).max()))


def test_a_group_wise_adapter_merges_into_the_quantized_base_without_loss(export, model, tmp_path):
    """The written codes are the base's own; only the shifts beside them hold the adapter."""
    quant = QuantConfig(block=32)
    loaded, kind = load_model(str(model), quant, "float32"), LoraConfig(rank=2, alpha=4.0, group=32)
    _, adapters = init_adapters(jax.random.key(1), loaded.base, kind)
    adapters = jax.tree.map(lambda x: x + 0.05, adapters)
    save_peft(tmp_path / "adapter", adapters, kind, loaded.config, str(model))
    given = (f"--config.adapter={tmp_path / 'adapter'}", "--config.model.quant.block=32", "--config.dtype=float32")
    ended, out = export("merged", "--config.quantized=True", *given)
    assert ended.status == 0, ended.err
    found = load_model(str(out), None, "float32")
    for name, w in found.base["layers"].items():
        if isinstance(w, QTensor):
            np.testing.assert_array_equal(w.codes, loaded.base["layers"][name].codes)
            assert float(jnp.abs(w.shift).max()) > 0
    want = scores(loaded, adapters)
    np.testing.assert_allclose(scores(found), want, atol=1e-5 * float(jnp.abs(want).max()))
    assert float(jnp.abs(want - scores(loaded)).max()) > 1e-2


def test_bitsandbytes_keeps_the_codes(export, model):
    ended, out = export("nf4", "--config.bitsandbytes=True")
    assert ended.status == 0
    ours, theirs = (load_model(str(s), q, "float32") for s, q in ((model, QuantConfig()), (out, None)))
    for name, w in theirs.base["layers"].items():
        if isinstance(w, QTensor):
            np.testing.assert_array_equal(w.codes, ours.base["layers"][name].codes)
    assert isinstance(theirs.base["layers"]["q_proj"], QTensor)


def test_only_group_wise_adapters_merge_without_loss(export, adapter):
    ended, out = export("merged", f"--config.adapter={adapter[0]}", "--config.quantized=True")
    assert "only group-wise LoRA (lora.group) without a bias merges into shifts" in ended.line() and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.adapter=nowhere",), "nowhere"),
        (("--config.bitsandbytes=True", "--config.adapter=x"), "neither an adapter"),
        (("--config.quantized=True", "--config.model.quantize=False"), "it needs model.quantize"),
    ],
)
def test_bad_input_is_one_line(export, arguments, message):
    ended, out = export("out", *arguments)
    assert ended.status == 2 and message in ended.err and ended.err.count("\n") == 1 and not out.exists()
