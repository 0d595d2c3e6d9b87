"""GGUF files: the package's reader and lqlm's own give back what was written."""

import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lqlm.errors import UserError
from lqlm.io.gguf import unpermute
from lqlm.io.gguf_writer import permute, save_gguf
from lqlm.io.load import load_model
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.config import RopeScaling
from lqlm.quant import QuantConfig
from lqlm.quant.mixed import dense
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

WRITTEN = ("llama", "qwen2", "qwen3")


def config(family="llama", **changes):
    settings = {"norm_eps": float(np.float32(1e-5)), "vocab_size": 40, **changes}  # GGUF has float32 numbers
    return tiny_config(family, **settings)


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(), (3,)]))
def test_permute_undoes_unpermute(heads, half, rest):
    rows = np.random.default_rng(0).normal(size=(heads * 2 * half, *rest))
    np.testing.assert_array_equal(unpermute(permute(rows, heads), heads), rows)


@pytest.mark.parametrize("family", WRITTEN)
def test_float32_comes_back_exactly(tmp_path, family):
    cfg = config(family)
    base = tiny_base(jax.random.key(0), cfg)
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), "F32")
    model = load_model(str(tmp_path / "m.gguf"), None, "float32")
    assert model.config == cfg
    jax.tree.map(np.testing.assert_array_equal, model.base, base)
    ours, theirs = model.tokenizer, tiny_tokenizer()
    assert (ours.eos_ids, ours.pad_id, ours.vocab_size) == (theirs.eos_ids, theirs.pad_id, theirs.vocab_size)
    assert ours.encode("abcd ab<|im_end|>") == theirs.encode("abcd ab<|im_end|>")
    assert ours.inner.chat_template == theirs.inner.chat_template


def test_a_bias_of_the_llama_family_is_permuted_too(tmp_path):
    cfg = config(qkv_bias=True)
    base = tiny_base(jax.random.key(0), cfg)
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), "F32")
    jax.tree.map(np.testing.assert_array_equal, load_model(str(tmp_path / "m.gguf"), None, "float32").base, base)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_smaller_kinds_hold_what_the_package_makes_of_them(tmp_path, kind):
    cfg = config(width=32, ffn=24, head_dim=8)  # down_proj has ragged rows: float32 with Q8_0
    base = tiny_base(jax.random.key(0), cfg, QuantConfig())
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), kind, name="tiny")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.name"].contents() == "tiny"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.1.attn_q.weight"] == kind and kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == ("F32" if kind == "Q8_0" else kind)
    raw = gguf.GGMLQuantizationType[kind]
    found = load_model(str(tmp_path / "m.gguf"), None, "float32").base["layers"]
    for name in ("q_proj", "up_proj"):
        want = dense(base["layers"][name], jnp.float32).swapaxes(1, 2)
        want = gguf.quants.dequantize(gguf.quants.quantize(np.asarray(want), raw), raw)
        np.testing.assert_array_equal(found[name], want.swapaxes(1, 2), err_msg=name)


def test_the_packages_reader_sees_interleaved_rows(tmp_path):
    cfg = config()
    base = tiny_base(jax.random.key(0), cfg)
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), "F32")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    rows = np.asarray(base["layers"]["q_proj"][0]).T.reshape(cfg.heads, cfg.head_dim, cfg.width)
    found = tensors["blk.0.attn_q.weight"].reshape(rows.shape)
    for i in range(cfg.head_dim // 2):
        np.testing.assert_array_equal(found[:, 2 * i], rows[:, i])
        np.testing.assert_array_equal(found[:, 2 * i + 1], rows[:, i + cfg.head_dim // 2])
    np.testing.assert_array_equal(tensors["token_embd.weight"], base["embed"])


@pytest.mark.parametrize(
    "scaling", [None, RopeScaling("linear", 4.0), RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)], ids=str
)
def test_rope_scaling_comes_back(tmp_path, scaling):
    cfg = config(rope_theta=500000.0, rope_scaling=scaling, head_dim=32)
    save_gguf(tmp_path / "m.gguf", tiny_base(jax.random.key(0), cfg), cfg, tiny_tokenizer(), "F32")
    assert load_model(str(tmp_path / "m.gguf"), None, "float32").config == cfg


def test_tokens_are_filled_up_to_the_models_rows(tmp_path):
    cfg = config(vocab_size=43)
    save_gguf(tmp_path / "m.gguf", tiny_base(jax.random.key(0), cfg), cfg, tiny_tokenizer(40))
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert tokens[40:] == ["[PAD40]", "[PAD41]", "[PAD42]"] and types[40:] == [5, 5, 5]
    assert types[0] == 3 and types[1] == 1


@pytest.mark.parametrize("rule", ["smollm", "qwen2", "llama-bpe", "gpt-2"])
def test_splitting_rules_are_recognized(tmp_path, rule):
    from lqlm.io.gguf_tokenizer import pre_tokenizer

    made = tiny_tokenizer()
    made.inner.backend_tokenizer.pre_tokenizer = pre_tokenizer(rule)
    cfg = config()
    save_gguf(tmp_path / "m.gguf", tiny_base(jax.random.key(0), cfg), cfg, made)
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"].contents() == rule


def other(model, pre_tokenizer):
    built = Inner(model)
    built.pre_tokenizer = pre_tokenizer
    inner = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="a")
    return Tokenizer(inner, (0,), 0, 1)


@pytest.mark.parametrize(
    ("changes", "tokenizer", "kind", "said"),
    [
        ({"family": "qwen2", "sliding_window": 3}, tiny_tokenizer, "F16", "sliding_window"),
        ({}, tiny_tokenizer, "Q4_K", "'Q4_K'"),
        ({}, lambda: other(models.WordLevel({"a": 0}, "a"), pre_tokenizers.ByteLevel()), "F16", "WordLevel"),
        ({}, lambda: other(models.BPE({"a": 0}, []), pre_tokenizers.Whitespace()), "F16", "splitting rule"),
    ],
)
def test_what_gguf_cannot_say_is_refused(tmp_path, changes, tokenizer, kind, said):
    cfg = config(**changes)
    with pytest.raises(UserError, match=said):
        save_gguf(tmp_path / "m.gguf", tiny_base(jax.random.key(0), cfg), cfg, tokenizer(), kind)
    assert list(tmp_path.iterdir()) == []


def test_the_tokens_are_those_of_the_tokenizers_file(tmp_path):
    cfg = config()
    save_gguf(tmp_path / "m.gguf", tiny_base(jax.random.key(0), cfg), cfg, tiny_tokenizer())
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    vocab = json.loads(tiny_tokenizer().inner.backend_tokenizer.to_str())["model"]["vocab"]
    assert fields["tokenizer.ggml.tokens"].contents() == sorted(vocab, key=vocab.get)
    assert fields["tokenizer.ggml.merges"].contents() == ["a b", "ab c"]
