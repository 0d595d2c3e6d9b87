"""Checkpoints that bitsandbytes quantized: the peer's are read as they are, ours come back, damage is named."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lqlm.errors import UserError
from lqlm.io.bnb_checkpoint import open_bnb, save_bnb
from lqlm.io.export import entries
from lqlm.io.load import load_model
from lqlm.io.safetensors import open_safetensors
from lqlm.models.transformer import forward, logits
from lqlm.quant import QTensor, QuantConfig, dequantize, quantize, to_bnb
from lqlm.quant.mixed import MixedStack, mixed_stack
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

OWN = {"nf4": QuantConfig(), "fp4": QuantConfig("fp4", double=False)}
CFG = tiny_config(vocab_size=40)


@pytest.fixture(params=OWN)
def peers(goldens, tmp_path, request):
    """A checkpoint that transformers saved, with a tokenizer beside it."""
    folder = tmp_path / request.param
    shutil.copytree(goldens / f"bnb_{request.param}", folder)
    tiny_tokenizer().inner.save_pretrained(folder)
    return folder


def scores(base, cfg, tokens):
    mask = jnp.ones(tokens.shape, bool)
    return np.asarray(logits(base, forward(base, None, jnp.asarray(tokens), mask, cfg)))


def test_the_peers_checkpoint_has_the_peers_logits(peers):
    model = load_model(str(peers), None, "float32")
    with np.load(peers / "golden.npz") as golden:
        found = scores(model.base, model.config, golden["tokens"])
        np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=2e-5 * np.abs(golden["logits"]).max())


def test_the_peers_bytes_are_kept(peers):
    model = load_model(str(peers), OWN[peers.name], "bfloat16")
    stored, seen = load_file(peers / "model.safetensors"), set()
    for name, entry in entries(model.base, model.config):
        if isinstance(entry, QTensor):
            assert entry.config == OWN[peers.name] and entry.dtype == jnp.bfloat16
            ours = {name.removesuffix("weight") + key: array for key, array in to_bnb(entry).items()}
            for key in ours.keys() - {key for key in ours if "quant_state" in key}:
                np.testing.assert_array_equal(ours[key].view(np.uint8), stored[key].view(np.uint8), err_msg=key)
            seen |= ours.keys()
        else:
            seen.add(name)
    assert seen == stored.keys()


def test_a_layer_that_the_peer_skipped_stays_dense(peers):
    base = load_model(str(peers), None, "float32").base
    down = base["layers"]["down_proj"]
    if peers.name == "fp4":
        assert isinstance(down, QTensor)
        return
    assert isinstance(down, MixedStack) and down.kinds == (0, 1)
    stored = load_file(peers / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(down.stacks[1][0], stored.T)


def test_another_format_than_its_own_is_refused(peers):
    for other in (QuantConfig("int4"), QuantConfig(OWN[peers.name].codebook, 128, OWN[peers.name].double)):
        with pytest.raises(UserError, match=r"model\.safetensors: tensor .* is quantized already, as"):
            load_model(str(peers), other, "float32")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("quant", [QuantConfig(), QuantConfig("fp4", 32, False)])
def test_what_is_written_comes_back(tmp_path, family, quant):
    cfg = tiny_config(family, vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg, quant)
    for _ in range(2):  # the second replaces the first
        save_bnb(tmp_path / "m", base, cfg, tiny_tokenizer(), "float32")
    model = load_model(str(tmp_path / "m"), quant, "float32")
    assert model.config == cfg and model.tokenizer.encode("abc") == [10] and model.tokenizer.eos_ids == (0,)
    assert jax.tree.structure(model.base) == jax.tree.structure(base)
    jax.tree.map(np.testing.assert_array_equal, model.base, base)
    settings = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    assert settings["load_in_4bit"] and settings["bnb_4bit_quant_type"] == quant.codebook
    assert settings["bnb_4bit_use_double_quant"] == quant.double and settings["llm_int8_skip_modules"] == ["lm_head"]


def test_mixed_layers_come_back_and_dense_ones_are_skipped_by_name(tmp_path):
    dense, quantized = tiny_base(jax.random.key(0), CFG), tiny_base(jax.random.key(0), CFG, QuantConfig())
    pick = lambda tree, i: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
    layers = {**quantized["layers"], "q_proj": dense["layers"]["q_proj"]}
    layers["up_proj"] = mixed_stack([pick(quantized["layers"]["up_proj"], 0), pick(dense["layers"]["up_proj"], 1)])
    base = {**quantized, "layers": layers}
    save_bnb(tmp_path, base, CFG, tiny_tokenizer(), "float32")
    jax.tree.map(np.testing.assert_array_equal, load_model(str(tmp_path), None, "float32").base, base)
    skipped = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["llm_int8_skip_modules"]
    attention = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert sorted(skipped) == sorted(["lm_head", *attention, "model.layers.1.mlp.up_proj"])


def test_a_quantized_head_is_dequantized(tmp_path):
    cfg = tiny_config("qwen2", vocab_size=40)
    base = tiny_base(jax.random.key(0), cfg, QuantConfig())
    save_bnb(tmp_path, base, cfg, tiny_tokenizer(), "float32")
    tensors, head = load_file(tmp_path / "model.safetensors"), quantize(base["head"])
    del tensors["lm_head.weight"]
    save_file(
        tensors | {f"lm_head.{key}": array for key, array in to_bnb(head).items()}, tmp_path / "model.safetensors"
    )
    np.testing.assert_array_equal(load_model(str(tmp_path), None, "float32").base["head"], dequantize(head))


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (lambda: tiny_base(jax.random.key(0), CFG), "nothing in it is quantized"),
        (
            lambda: tiny_base(jax.random.key(0), CFG, QuantConfig("nf3")),
            r"layers\.0\.\w+\.q_proj\.weight: .*codebook nf3",
        ),
    ],
)
def test_what_the_peer_cannot_read_is_not_written(tmp_path, base, said):
    with pytest.raises(UserError, match=said):
        save_bnb(tmp_path / "m", base(), CFG)
    assert not (tmp_path / "m").exists()


STATE = "weight.quant_state.bitsandbytes__nf4"
Q = "model.layers.1.self_attn.q_proj."


def rewrite(folder, config=None, **tensors):
    stored = load_file(folder / "model.safetensors")
    stored |= {name: make(stored) for name, make in tensors.items()}
    save_file({k: v for k, v in stored.items() if v is not None}, folder / "model.safetensors")
    if config is not None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**found, "quantization_config": config}))


@pytest.fixture
def ours(tmp_path):
    save_bnb(tmp_path / "m", tiny_base(jax.random.key(0), CFG, QuantConfig()), CFG, tiny_tokenizer(), "float32")
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({Q + "weight.absmax": lambda t: t[Q + "weight.absmax"][1:]}, "q_proj.weight: weight.absmax has 5 entries"),
        ({Q + STATE: lambda t: t[Q + STATE][:-5]}, "q_proj.weight: .*truncated or no JSON"),
        ({Q + STATE: lambda t: None}, "stands alone"),
        ({Q + "weight": lambda t: None}, "stands alone: .*q_proj.weight is missing"),
        ({Q + "weight.nested_absmax": lambda t: None}, "nested_absmax is missing"),
        ({Q + "SCB": lambda t: np.ones(4, np.float32)}, r"q_proj\.SCB: LLM\.int8"),
    ],
)
def test_damage_names_file_and_tensor(ours, change, said):
    rewrite(ours, **change)
    with pytest.raises(UserError, match=rf"{ours}.*{said}"):
        load_model(str(ours), None, "float32")


def test_a_weight_of_another_shape_is_named(ours):
    other = to_bnb(quantize(jnp.ones((16, 30))))
    rewrite(ours, **{Q + key: lambda t, array=array: array for key, array in other.items()})
    with pytest.raises(UserError, match=r"q_proj\.weight is quantized from \[30, 16\]; .* needs \[24, 16\]"):
        load_model(str(ours), None, "float32")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"LLM\.int8"),
        ({"_load_in_8bit": True}, r"LLM\.int8"),
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ("nf4", "'unknown'|'bitsandbytes'"),
    ],
)
def test_other_quantizations_are_refused_by_name(ours, config, said):
    rewrite(ours, config)
    with pytest.raises(UserError, match=f"{ours}: config: quantization_config: .*({said})"):
        load_model(str(ours), None, "float32")


def test_an_unquantized_checkpoint_is_none_of_these(goldens):
    assert open_bnb(open_safetensors(goldens / "transformers" / "qwen2")) is None
