"""Dense Hugging Face directories: what is written comes back, and configs are inverses of each other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from lqlm.errors import UserError
from lqlm.io import disk
from lqlm.io.export import save_hf
from lqlm.io.load import load_model
from lqlm.models.config import FAMILIES, ModelConfig, RopeScaling
from lqlm.models.hf_config import config_from_hf, config_to_hf
from lqlm.quant import QuantConfig
from lqlm.quant.mixed import dense
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

SCALINGS = st.sampled_from([None, RopeScaling("linear", 4.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)])


@st.composite
def configs(draw):
    """Any config that config_from_hf can give and transformers has."""
    family = draw(st.sampled_from([family for family in FAMILIES if family != "opt"]))
    kv_heads = draw(st.integers(1, 4))
    window = draw(st.sampled_from([None, 5])) if family != "llama" else None
    return ModelConfig(
        family=family,
        vocab_size=draw(st.integers(1, 99)),
        width=draw(st.integers(1, 99)),
        ffn=draw(st.integers(1, 99)),
        layers=draw(st.integers(1, 9)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 9)),
        rope_theta=draw(st.sampled_from([100.0, 1e6])),
        rope_scaling=draw(SCALINGS),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        tied=draw(st.booleans()),
        qkv_bias=family == "qwen2" or (family != "mistral" and draw(st.booleans())),
        qk_norm=family == "qwen3",
        max_positions=draw(st.integers(1, 99)),
        sliding_window=window,
    )


@given(configs())
def test_config_to_hf_is_the_inverse_of_config_from_hf(cfg):
    written = json.loads(json.dumps(config_to_hf(cfg)))
    assert config_from_hf(written) == cfg


@given(heads=st.integers(1, 4), tied=st.booleans(), sizes=st.lists(st.integers(1, 99), min_size=4, max_size=4))
def test_config_to_hf_is_the_inverse_for_opt(heads, tied, sizes):
    vocab_size, ffn, layers, max_positions = sizes
    shape = {"heads": heads, "kv_heads": heads, "width": 5 * heads, "head_dim": 5, "tied": tied, "rope_theta": 10000.0}
    sized = {"vocab_size": vocab_size, "ffn": ffn, "layers": layers, "max_positions": max_positions}
    cfg = tiny_config("opt", **shape, **sized)
    assert config_from_hf(json.loads(json.dumps(config_to_hf(cfg)))) == cfg


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"family": "mistral", "qkv_bias": True}, "qkv_bias"), ({"sliding_window": 3}, "sliding_window")],
)
def test_config_that_transformers_does_not_have(changes, said):
    with pytest.raises(UserError, match=said):
        config_to_hf(tiny_config(**{"family": "llama", **changes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_model_comes_back(tmp_path, family):
    cfg = tiny_config(family, vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg)
    save_hf(tmp_path / "m", base, cfg, tiny_tokenizer(), "float32")
    model = load_model(str(tmp_path / "m"), None, "float32")
    assert model.config == cfg and model.tokenizer.encode("abcd") == [10, 4]
    assert (model.tokenizer.eos_ids, model.tokenizer.pad_id) == ((0,), 0)
    assert jax.tree.structure(model.base) == jax.tree.structure(base)
    jax.tree.map(np.testing.assert_array_equal, model.base, base)


def test_output_biases_are_written_as_zeros_where_transformers_wants_them(tmp_path):
    cfg = tiny_config("llama", qkv_bias=True, vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg)
    save_hf(tmp_path, base, cfg, tiny_tokenizer(), "float32")
    found = load_model(str(tmp_path), None, "float32").base["layers"]
    np.testing.assert_array_equal(found.pop("o_bias"), np.zeros((cfg.layers, cfg.width)))
    jax.tree.map(np.testing.assert_array_equal, found, base["layers"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_quantized_model_is_dequantized(tmp_path, dtype):
    cfg = tiny_config(vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg, QuantConfig("nf3"))
    save_hf(tmp_path, base, cfg, tiny_tokenizer(), dtype)
    opened = load_model(str(tmp_path), None, "float32").base
    for name, w in base["layers"].items():
        np.testing.assert_array_equal(opened["layers"][name], dense(w, jnp.dtype(dtype)).astype(jnp.float32))
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype


def test_the_file_is_one_that_the_package_reads(tmp_path):
    cfg = tiny_config(vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg)
    save_hf(tmp_path, base, cfg, dtype="float32")
    tensors = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.up_proj.weight"], base["layers"]["up_proj"][1].T)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"width": 18}, {"tied": False}, {"qkv_bias": True}])
def test_a_base_of_another_config_is_refused(tmp_path, wrong):
    base = tiny_base(jax.random.key(0), tiny_config())
    with pytest.raises(UserError, match=r"^base: "):
        save_hf(tmp_path / "m", base, tiny_config(**wrong))
    assert not (tmp_path / "m").exists()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    cfg = tiny_config()
    save_hf(tmp_path / "m", tiny_base(jax.random.key(0), cfg), cfg, dtype="float32")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def fill(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_fill", fill)
    with pytest.raises(UserError, match="disk full"):
        save_hf(tmp_path / "m", tiny_base(jax.random.key(1), cfg), cfg, dtype="float32")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_unknown_dtype():
    with pytest.raises(UserError, match="dtype 'int8'"):
        save_hf("x", {}, tiny_config(), dtype="int8")
