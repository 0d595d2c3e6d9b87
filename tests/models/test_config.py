import dataclasses

import pytest

from lqlm.errors import UserError
from lqlm.models.config import RopeScaling
from lqlm.models.hf_config import config_from_hf

LLAMA = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config(**changes):
    return config_from_hf({**LLAMA, **changes})


def without(key):
    return config_from_hf({k: v for k, v in LLAMA.items() if k != key})


def test_plain_llama():
    found = config()
    assert (found.width, found.ffn, found.layers, found.heads, found.kv_heads, found.head_dim) == (32, 64, 3, 4, 2, 8)
    assert (found.rope_theta, found.rope_scaling, found.norm_eps) == (500000.0, None, 1e-5)
    assert (found.tied, found.qkv_bias, found.qk_norm, found.sliding_window) == (False, False, False, None)
    assert hash(found) == hash(config())


def test_head_dim_of_its_own():
    assert config(head_dim=12).head_dim == 12
    assert config(head_dim=None).head_dim == 8
    assert config(model_type="qwen3").head_dim == 128  # transformers' default for that family


def test_old_and_new_rope_spellings_agree():
    expected = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    old = config(rope_scaling={"rope_type": "llama3", **LLAMA3})
    new = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    new = config_from_hf({**new, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}})
    assert old == new and old.rope_scaling == expected
    assert config(rope_scaling={"type": "linear", "factor": 2}).rope_scaling == RopeScaling("linear", 2.0)
    assert config(rope_scaling=None).rope_scaling is None
    assert without("rope_theta").rope_theta == 10000.0


def test_families_differ_in_biases_and_norms():
    assert config(attention_bias=True).qkv_bias
    assert config(model_type="qwen2").qkv_bias
    qwen3 = config(model_type="qwen3")
    assert qwen3.qk_norm and not qwen3.qkv_bias
    assert config(tie_word_embeddings=True).tied


def test_sliding_windows():
    assert config(model_type="mistral", sliding_window=7).sliding_window == 7
    assert config(model_type="mistral", sliding_window=None).sliding_window is None
    assert config(model_type="mistral").sliding_window == 4096
    qwen = {"model_type": "qwen2", "sliding_window": 7}
    assert config(**qwen, use_sliding_window=False, max_window_layers=0).sliding_window is None
    assert config(**qwen, use_sliding_window=True, max_window_layers=0).sliding_window == 7
    assert config(**qwen, use_sliding_window=True, max_window_layers=3).sliding_window is None
    with pytest.raises(UserError, match="max_window_layers"):
        config(**qwen, use_sliding_window=True, max_window_layers=1)


def test_kv_heads_may_be_absent_in_llama_only():
    assert without("num_key_value_heads").kv_heads == 4
    with pytest.raises(UserError, match="num_key_value_heads"):
        config(model_type="mistral", num_key_value_heads=None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt_neox"}, "gpt_neox"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "'awq'"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, r"LLM\.int8"),
        ({"num_key_value_heads": 3}, "3 key/value heads"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_what_is_not_supported_is_named(changes, named):
    with pytest.raises(UserError, match=named) as raised:
        config(**changes)
    assert "\n" not in str(raised.value)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().layers = 2
