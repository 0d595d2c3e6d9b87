import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS
from lqlm.errors import UserError
from lqlm.models.convert import from_hf_tensors, layer_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "head_dim": 6,
}
CFG = config_from_hf(CONFIG)


def make_tensors(cfg=CFG):
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (10, 8), "model.norm.weight": (8,), "lm_head.weight": (10, 8)}
    for i in range(cfg.layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer_tensors(cfg).values()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def build(tensors, cfg=CFG, quant=None, dtype="float32"):
    return from_hf_tensors(tensors.__getitem__, tensors, cfg, quant=quant, dtype=dtype, describe="f.bin: {}".format)


def test_dense_tree_is_stacked_and_turned():
    tensors = make_tensors()
    base = build(tensors)
    np.testing.assert_array_equal(base["embed"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(base["head"], tensors["lm_head.weight"].T)
    assert base["layers"].keys() == layer_tensors(CFG).keys()
    for key, (name, shape) in layer_tensors(CFG).items():
        assert base["layers"][key].shape == (2, *reversed(shape))
        for i in range(2):
            np.testing.assert_array_equal(base["layers"][key][i], tensors[f"model.layers.{i}.{name}"].T)


def test_quantized_tree_quantizes_only_the_linear_maps():
    tensors, quant = make_tensors(), QuantConfig()
    base = build(tensors, quant=quant, dtype="bfloat16")
    for key, (name, shape) in layer_tensors(CFG).items():
        stacked = base["layers"][key]
        assert isinstance(stacked, QTensor) == (key in LINEARS)
        if key in LINEARS:
            alone = [quantize(jnp.asarray(tensors[f"model.layers.{i}.{name}"]).T, quant, jnp.bfloat16) for i in (0, 1)]
            found = dequantize(stacked)
            assert found.shape == (2, *reversed(shape)) and found.dtype == jnp.bfloat16
            np.testing.assert_array_equal(found, jnp.stack([dequantize(each) for each in alone]))
    assert base["embed"].dtype == base["layers"]["input_norm"].dtype == base["layers"]["q_bias"].dtype == jnp.bfloat16


def test_tied_model_has_no_head_even_if_the_file_has():
    cfg = config_from_hf({**CONFIG, "tie_word_embeddings": True})
    tensors = make_tensors()
    assert "head" not in build(tensors, cfg)
    del tensors["lm_head.weight"]
    assert "head" not in build(tensors, cfg)


def test_source_precisions_are_read():
    tensors = make_tensors()
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    base = build(half)
    assert base["embed"].dtype == jnp.float32
    np.testing.assert_array_equal(base["embed"], half["model.embed_tokens.weight"].astype(np.float32))


def test_output_bias_and_qk_norms_are_taken():
    cfg = config_from_hf({**CONFIG, "model_type": "qwen3", "attention_bias": True})
    tensors = make_tensors(cfg)
    for i in range(2):
        tensors[f"model.layers.{i}.self_attn.o_proj.bias"] = np.full(8, float(i), np.float32)
    layers = build(tensors, cfg)["layers"]
    np.testing.assert_array_equal(layers["o_bias"][:, 0], [0.0, 1.0])
    assert layers["q_norm"].shape == (2, 6)


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"],
)
@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "inf"])
@pytest.mark.parametrize("quant", [None, QuantConfig()])
def test_damaged_tensors_are_named(name, damage, quant):
    tensors = make_tensors()
    match damage:
        case "missing":
            del tensors[name]
        case "shape":
            tensors[name] = tensors[name][:-1]
        case "nan":
            tensors[name].flat[3] = np.nan
        case "inf":
            tensors[name].flat[-1] = np.inf
    with pytest.raises(UserError, match=f"f.bin: {name}") as raised:
        build(tensors, quant=quant)
    assert "\n" not in str(raised.value)


def test_a_tensor_without_a_place_is_refused():
    tensors = make_tensors()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    build(tensors)
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(6, np.float32)
    with pytest.raises(UserError, match="q_norm"):
        build(tensors)


def test_more_layers_in_the_file_than_in_the_config_are_refused():
    fewer = config_from_hf({**CONFIG, "num_hidden_layers": 1})
    with pytest.raises(UserError, match=r"model\.layers\.1"):
        build(make_tensors(), fewer)


def test_other_dtypes_are_refused():
    with pytest.raises(UserError, match="float16"):
        build(make_tensors(), dtype="float16")
