"""OPT where it differs from the other families: what is adapted, what is generated, what its config may say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import FullConfig, Ia3Config, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.merge import merge
from lqlm.errors import UserError
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.peft import load_peft, save_peft
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.hf_config import config_from_hf
from lqlm.models.score import completion_logprobs
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QTensor, QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config("opt")
SIX = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
OPT_125M = {
    "model_type": "opt",
    "vocab_size": 50272,
    "hidden_size": 768,
    "word_embed_proj_dim": 768,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "activation_function": "relu",
}


@jax.jit
def _scores(base, adapters, tokens, mask):
    return logits(base, forward(base, adapters, tokens, mask, CFG))


def scores(base, adapters, tokens, mask):
    return np.asarray(_scores(base, adapters, tokens, mask))


def test_every_tensor_of_its_own_is_used():
    base = tiny_base(jax.random.key(0), CFG)
    tokens, mask = pad(ragged(1, (6,), CFG.vocab_size), 6, "left")
    before = scores(base, None, tokens, mask)
    for name in ("norm_bias", "positions"):
        ramp = jnp.linspace(-0.5, 1.0, base[name].size).reshape(base[name].shape)
        assert np.abs(scores({**base, name: base[name] + ramp}, None, tokens, mask) - before).max() > 1e-2
    for name in ("input_norm_bias", "post_norm_bias", "up_bias", "down_bias", "o_bias"):
        ramp = jnp.linspace(-0.5, 1.0, base["layers"][name].shape[-1])[None]
        layers = {**base["layers"], name: base["layers"][name] + ramp}
        assert np.abs(scores({**base, "layers": layers}, None, tokens, mask) - before).max() > 1e-2


def test_the_first_token_has_row_two_whatever_is_padded():
    base = tiny_base(jax.random.key(0), CFG)
    rows = ragged(1, (6, 4), CFG.vocab_size)
    left, right = (scores(base, None, *pad(rows, 9, side)) for side in ("left", "right"))
    np.testing.assert_allclose(left[0, 3:], right[0, :6], atol=2e-5)
    np.testing.assert_allclose(left[1, 5:], right[1, :4], atol=2e-5)
    changed = {**base, "positions": base["positions"].at[1].set(9.0).at[8:].set(9.0)}
    np.testing.assert_allclose(scores(changed, None, *pad(rows, 9, "left"))[0, 3:], left[0, 3:], atol=2e-5)


def test_what_is_generated_is_what_forward_scores():
    base = tiny_base(jax.random.key(0), CFG)
    adapters = tiny_adapters(jax.random.key(1), base)
    tokens, mask = pad(ragged(2, (5, 3), CFG.vocab_size), 5, "left")  # the second row is padded
    greedy = SamplingConfig(max_new_tokens=6, temperature=0.0)
    out = generate(base, adapters, tokens, mask, jax.random.key(2), CFG, greedy, group=2, eos_ids=(99,), pad_id=0)
    text = jnp.concatenate([tokens, out.tokens_BGC[:, 1]], axis=1)
    best = scores(base, adapters, text, jnp.concatenate([mask, jnp.ones((2, 6), bool)], axis=1)).argmax(-1)
    np.testing.assert_array_equal(best[:, -7:-1], out.tokens_BGC[:, 1])
    found, _ = completion_logprobs(base, adapters, tokens, mask, out.tokens_BGC, jnp.ones((2, 2, 6), bool), CFG)
    np.testing.assert_allclose(found, out.logp_BGC, atol=2e-5)


def test_all_linear_are_its_six_maps_and_every_kind_begins_as_nothing(tmp_path):
    base = tiny_base(jax.random.key(0), CFG, QuantConfig(block=32))
    assert all(isinstance(base["layers"][name], QTensor) for name in SIX)
    tokens, mask = pad(ragged(1, (6,), CFG.vocab_size), 6, "left")
    plain = scores(base, None, tokens, mask)
    for cfg in (LoraConfig(rank=2, bias="all"), Ia3Config()):
        _, adapters = init_adapters(jax.random.key(1), base, cfg)
        np.testing.assert_allclose(scores(base, adapters, tokens, mask), plain, atol=1e-5)
    _, adapters = init_adapters(jax.random.key(1), base, LoraConfig(rank=2, bias="all"))
    assert tuple(adapters["layers"]) == SIX and len(adapters["biases"]) == 6
    with pytest.raises(UserError, match="hits no linear layer of this model; choose among q_proj"):
        init_adapters(jax.random.key(1), base, LoraConfig(rank=2, targets=("gate_proj",)))


@pytest.mark.parametrize("cfg", [LoraConfig(rank=2, bias="all"), Ia3Config()], ids=["lora", "ia3"])
def test_adapters_leave_under_its_own_names_and_come_back(tmp_path, cfg):
    base = tiny_base(jax.random.key(0), CFG)
    _, adapters = init_adapters(jax.random.key(1), base, cfg)
    adapters = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapters)
    save_peft(tmp_path, adapters, cfg, CFG, "base")
    found, read = load_peft(tmp_path, CFG)
    assert len(read.targets) == len(adapters["layers"])
    jax.tree.map(np.testing.assert_array_equal, found, adapters)
    names = open_safetensors(tmp_path / "adapter_model.safetensors").names
    start = "base_model.model.model.decoder.layers.1."
    assert any(name.startswith(f"{start}fc2.") for name in names)
    targets = read_json(tmp_path / "adapter_config.json")["target_modules"]
    assert "fc2" in targets and "down_proj" not in targets
    tokens, mask = pad(ragged(1, (6,), CFG.vocab_size), 6, "left")
    if not isinstance(cfg, Ia3Config):
        merged = merge(base, adapters)
        np.testing.assert_allclose(scores(merged, None, tokens, mask), scores(base, adapters, tokens, mask), atol=1e-4)


def test_full_training_reaches_the_positions():
    base = tiny_base(jax.random.key(0), CFG)
    _, adapters = init_adapters(jax.random.key(1), base, FullConfig())
    tokens, mask = pad(ragged(1, (6,), CFG.vocab_size), 6, "left")

    def loss(adapters):
        hidden = forward({}, adapters, tokens, mask, CFG)
        return jnp.sum(logits(adapters["full"], hidden)[..., 3])

    grads = jax.grad(loss)(adapters)["full"]
    assert np.abs(grads["positions"][2:8]).min(axis=1).max() > 0 and not grads["positions"][8:].any()
    assert np.abs(grads["norm_bias"]).max() > 0


def test_its_config_is_read_with_transformers_defaults():
    cfg = config_from_hf(OPT_125M)
    assert (cfg.family, cfg.ffn, cfg.head_dim, cfg.kv_heads, cfg.tied) == ("opt", 3072, 64, 12, True)
    assert cfg.norm_eps == 1e-5 and cfg.qkv_bias and not cfg.gated and cfg.learned_positions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"do_layer_norm_before": False}, "do_layer_norm_before"),  # OPT-350M
        ({"word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ({"activation_function": "gelu"}, "activation_function"),
        ({"enable_bias": False}, "enable_bias"),
        ({"ffn_dim": None}, "intermediate_size"),
        ({"num_attention_heads": "12"}, "num_attention_heads"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, said):
    with pytest.raises(UserError, match=said):
        config_from_hf({**OPT_125M, **changes})
