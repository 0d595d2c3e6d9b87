"""Quantized directories: read back bit for bit, and one clear line for each way in which one can be wrong."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS, linears_of
from lqlm.errors import UserError
from lqlm.io import disk
from lqlm.io.load import load_model
from lqlm.io.quantized import save_quantized
from lqlm.models.formats import apply_formats
from lqlm.quant.qtensor import QTensor, QuantConfig
from tests.experiments.tiny_model import save_model
from tests.tiny import tiny_base, tiny_config

FORMATS = [QuantConfig("nf4", 32, double=False), QuantConfig("nf3", 96), QuantConfig("dynamic8", double_block=16), None]


def is_quantized(x):
    return isinstance(x, QTensor)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return load_model(str(save_model(tmp_path_factory.mktemp("dense") / "model")), None, "float32")


@pytest.fixture(scope="module")
def base(source):
    """Every map of both layers in another format; q_proj with shifts."""
    formats = {name: [FORMATS[i % 4], FORMATS[(i + i // 4) % 4]] for i, name in enumerate(LINEARS)}
    base = apply_formats(source.base, formats)
    q = base["layers"]["q_proj"]
    assert is_quantized(q) and q.rows
    shift = jax.random.normal(jax.random.key(0), (q.lead[0], q.shape[0] // q.config.block, q.shape[1]))
    return {**base, "layers": {**base["layers"], "q_proj": q.replace(shift=shift)}}


@pytest.fixture
def saved(source, base, tmp_path):
    save_quantized(tmp_path / "model", base, source.config, source.tokenizer, "float32")
    return tmp_path / "model"


def test_everything_is_read_back_bit_for_bit(saved, source, base):
    model = load_model(str(saved), None, "float32")
    assert model.config == source.config and model.tokenizer.eos_ids == source.tokenizer.eos_ids
    assert jax.tree.structure(model.base) == jax.tree.structure(base)  # formats, shapes and dtypes are part of it
    for found, expected in zip(jax.tree.leaves(model.base), jax.tree.leaves(base), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_model_whose_maps_have_other_names_is_read_back(source, tmp_path):
    cfg = tiny_config("opt", vocab_size=source.config.vocab_size)
    base = tiny_base(jax.random.key(0), cfg)
    formats = {name: [QuantConfig(), None] for name in linears_of(base["layers"])}
    base = apply_formats(base, formats)
    save_quantized(tmp_path / "opt", base, cfg, source.tokenizer, "float32")
    found = load_model(str(tmp_path / "opt"), None, "float32").base
    assert jax.tree.structure(found) == jax.tree.structure(base)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(base), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_file_is_as_small_as_the_arrays(saved, base):
    arrays = sum(x.nbytes for x in jax.tree.leaves(base))
    assert arrays <= (saved / "model.safetensors").stat().st_size < arrays + 20_000


def test_another_dtype_changes_what_is_not_quantized(saved):
    model = load_model(str(saved), None, "bfloat16")
    assert model.base["embed"].dtype == jnp.bfloat16
    quantized = [x for x in jax.tree.leaves(model.base, is_leaf=is_quantized) if is_quantized(x)]
    assert quantized and all(x.dtype == jnp.bfloat16 for x in quantized)


def test_another_format_is_not_made_of_it(saved):
    with pytest.raises(UserError, match=r"q_proj.weight is held as nf4-32-single already, and nf4-64 was asked for"):
        load_model(str(saved), QuantConfig(), "float32")


def changed(saved, change):
    path = saved / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


FIRST = "model.layers.0.self_attn.q_proj.weight"
DAMAGES = {
    "version is 2, this lqlm reads 1": lambda q: q.update(version=2),
    "formats is None, not an object": lambda q: q.pop("formats"),
    r"formats.nf3-96: quantization codebook 'nf5' is unknown": lambda q: q["formats"]["nf3-96"].update(codebook="nf5"),
    r"formats.nf3-96: .*unexpected keyword": lambda q: q["formats"]["nf3-96"].update(bits=3),
    f"{FIRST} has the format None": lambda q: q["weights"].pop(FIRST),
    rf"{FIRST}.codes is uint8\[32, 64\], by its format it must be uint8\[64, 64\]": (
        lambda q: q["formats"].update({"nf4-32-single": {"codebook": "dynamic8", "block": 32, "double": False}})
    ),
    f"{FIRST}.maxima.codes is missing": lambda q: q["formats"]["nf4-32-single"].update(double=True),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_directory_is_described(saved, words):
    changed(saved, DAMAGES[words])
    with pytest.raises(UserError, match=words) as caught:
        load_model(str(saved), None, "float32")
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_maxima_that_are_not_finite_are_named(source, base, tmp_path):
    q = base["layers"]["q_proj"]
    broken = q.replace(maxima=q.maxima.at[1, 0, 3].set(np.nan))
    base = {**base, "layers": {**base["layers"], "q_proj": broken}}
    save_quantized(tmp_path / "model", base, source.config, source.tokenizer, "float32")
    with pytest.raises(UserError, match=r"layers.1.self_attn.q_proj.weight.maxima holds 1 NaN"):
        load_model(str(tmp_path / "model"), None, "float32")


def test_other_files_are_not_overwritten(saved, source, base):
    save_quantized(saved, base, source.config, source.tokenizer, "float32")  # its own are
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes.txt\)"):
        save_quantized(saved, base, source.config, source.tokenizer, "float32")
    assert (saved / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing(source, base, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "_fill", full)
    with pytest.raises(UserError, match=r"disk full while writing .*model"):
        save_quantized(tmp_path / "model", base, source.config, source.tokenizer, "float32")
    assert list(tmp_path.iterdir()) == []
