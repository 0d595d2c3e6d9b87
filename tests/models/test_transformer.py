"""The forward pass: who sees whom, what padding may not change, and the shared-prefix form against the repeated one."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_lora
from lqlm.models import block
from lqlm.models.block import linear
from lqlm.models.config import RopeScaling
from lqlm.models.groups import forward_groups, prefill
from lqlm.models.masks import positions_of
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

NF4 = QuantConfig()
WINDOWS = ("llama", "mistral")  # without and with a sliding window
run = jax.jit(forward, static_argnames=("cfg", "remat"))
run_groups = jax.jit(forward_groups, static_argnames=("cfg", "remat"))


def model(family="llama", quant=None, **changes):
    cfg = tiny_config(family, **changes)
    base = tiny_base(jax.random.key(0), cfg, quant)
    return cfg, base, tiny_adapters(jax.random.key(1), base)


def influence(cfg, base, adapters, tokens, mask):
    """``[T, S]``: the largest derivative of any number in hidden state t by any number of token s's embedding."""

    def hidden(embed):
        return forward({**base, "embed": embed}, adapters, tokens, mask, cfg)[0]

    jacobian = jax.jit(jax.jacrev(hidden))(base["embed"])  # [T, D, V, D], and every token occurs once
    return np.abs(np.asarray(jacobian)).max(axis=(1, 3))[:, np.asarray(tokens[0])]


@pytest.mark.parametrize("family", WINDOWS)
def test_causality_by_gradient(family):
    cfg, base, adapters = model(family)
    tokens = jnp.arange(7, dtype=jnp.int32)[None]
    found = influence(cfg, base, adapters, tokens, jnp.ones((1, 7), bool))
    ahead = np.arange(7)[:, None] - np.arange(7)[None]
    assert (found[ahead < 0] == 0).all()
    reach = 7 if cfg.sliding_window is None else cfg.layers * (cfg.sliding_window - 1) + 1
    assert (found[(ahead >= 0) & (ahead < reach)] > 1e-6).all()
    assert (found[ahead >= reach] == 0).all()


def test_a_sliding_window_of_one_layer_sees_its_keys_and_no_more():
    cfg, base, adapters = model("mistral", layers=1)
    tokens, mask = jnp.arange(8, dtype=jnp.int32)[None], jnp.arange(8)[None] >= 2  # two of padding on the left
    found = influence(cfg, base, adapters, tokens, mask)[2:, 2:]
    ahead = np.arange(6)[:, None] - np.arange(6)[None]
    np.testing.assert_array_equal(found > 0, (ahead >= 0) & (ahead < 3))


def test_a_window_longer_than_the_text_changes_nothing():
    cfg, base, adapters = model("mistral", sliding_window=50)
    tokens, mask = pad(ragged(0, (4, 6), cfg.vocab_size), 6, "left")
    whole = run(base, adapters, tokens, mask, cfg=tiny_config("mistral", sliding_window=None))
    np.testing.assert_array_equal(run(base, adapters, tokens, mask, cfg=cfg), whole)


def test_padding_is_not_seen():
    cfg, base, adapters = model()
    tokens, mask = jnp.arange(6, dtype=jnp.int32)[None], jnp.array([[False, False, True, True, True, False]])
    found = influence(cfg, base, adapters, tokens, mask)
    assert (found[2:5][:, [0, 1, 5]] == 0).all()


@pytest.mark.parametrize("family", WINDOWS)
def test_left_right_more_and_no_padding_agree(family):
    cfg, base, adapters = model(family, qkv_bias=True, qk_norm=True)
    rows = ragged(1, (1, 4, 6), cfg.vocab_size)
    alone = [run(base, adapters, *pad([row], len(row), "left"), cfg=cfg)[0] for row in rows]
    for side, length in (("left", 6), ("right", 6), ("left", 9), ("right", 9)):
        tokens, mask = pad(rows, length, side, fill=7)
        hidden = run(base, adapters, tokens, mask, cfg=cfg)
        assert np.isfinite(hidden).all()
        for i, want in enumerate(alone):
            np.testing.assert_allclose(hidden[i][mask[i]], want, rtol=1e-4, atol=1e-5, err_msg=f"{side} {length}")


def test_rows_do_not_see_each_other():
    cfg, base, adapters = model()
    tokens, mask = pad(ragged(2, (3, 6, 5, 1), cfg.vocab_size), 6, "left")
    order = jnp.array([2, 0, 3, 1])
    hidden = run(base, adapters, tokens, mask, cfg=cfg)
    np.testing.assert_allclose(run(base, adapters, tokens[order], mask[order], cfg=cfg), hidden[order], atol=1e-5)


@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_positions_count_real_tokens(mask):
    found = np.asarray(positions_of(jnp.array([mask])))[0]
    for t, real in enumerate(mask):
        if real:
            assert found[t] == sum(mask[:t])


def test_positions_enter_only_as_distances_but_do_enter():
    cfg, base, adapters = model()
    tokens = jnp.array([[3, 5, 3, 5]], jnp.int32)
    hidden = run(base, adapters, tokens, jnp.ones((1, 4), bool), cfg=cfg)
    assert np.abs(hidden[0, 1] - hidden[0, 3]).max() > 1e-2


@pytest.mark.parametrize(
    "changes",
    [{"rope_theta": 10.0}, {"rope_scaling": RopeScaling("linear", 4.0)}, {"norm_eps": 0.5}, {"sliding_window": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_of_the_config_is_used(changes):
    cfg, base, adapters = model()
    tokens, mask = pad(ragged(3, (6,), cfg.vocab_size), 6, "left")
    other = run(base, adapters, tokens, mask, cfg=tiny_config(**changes))
    assert np.abs(other - run(base, adapters, tokens, mask, cfg=cfg)).max() > 1e-2


VECTORS = ("q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm", "input_norm", "post_norm")


@pytest.mark.parametrize("name", VECTORS)
def test_every_bias_and_norm_is_used(name):
    cfg, base, adapters = model("qwen3", qkv_bias=True)
    layers = {**base["layers"], "o_bias": jnp.zeros((cfg.layers, cfg.width))}
    tokens, mask = pad(ragged(3, (6,), cfg.vocab_size), 6, "left")
    before = run({**base, "layers": layers}, adapters, tokens, mask, cfg=cfg)
    ramp = jnp.linspace(0.5, 1.5, layers[name].shape[-1])[None]  # a constant key bias would cancel in the softmax
    changed = {**base, "layers": {**layers, name: layers[name] + ramp}}
    assert np.abs(run(changed, adapters, tokens, mask, cfg=cfg) - before).max() > 1e-2


def test_logits_of_tied_and_untied_heads():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 16)).astype(jnp.bfloat16)
    embed, head = jnp.ones((5, 16), jnp.bfloat16), 2 * jnp.ones((16, 5), jnp.bfloat16)
    tied, untied = logits({"embed": embed}, hidden), logits({"embed": embed, "head": head}, hidden)
    assert tied.dtype == untied.dtype == jnp.float32
    want = np.asarray(hidden, np.float64).sum(-1, keepdims=True) * np.ones(5)
    np.testing.assert_allclose(tied, want, atol=1e-5)
    np.testing.assert_allclose(untied, 2 * want, atol=1e-5)


TOKENS, MASK = pad(ragged(0, (3, 6), 23), 6, "left")


def value_and_grad(cfg, *, remat="none", key=None):
    def loss(adapters, base):
        hidden = forward(base, adapters, TOKENS, MASK, cfg, remat=remat, dropout_key=key)
        return jnp.sum(jnp.sin(hidden) * MASK[..., None].astype(jnp.float32))

    return jax.value_and_grad(loss)


def close(found, want, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, want)


@pytest.mark.slow
def test_jit_equals_eager():
    cfg, base, adapters = model("qwen2", quant=NF4)
    compiled = jax.jit(value_and_grad(cfg))(adapters, base)
    close(compiled, value_and_grad(cfg)(adapters, base))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_remat_changes_neither_value_nor_gradient(dropout):
    cfg, base, _ = model(quant=NF4)
    adapters = tiny_adapters(jax.random.key(1), base, dropout=dropout)
    key = jax.random.key(5)
    plain, remat = (jax.jit(value_and_grad(cfg, remat=r, key=key))(adapters, base) for r in ("none", "full"))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[1])) > 0.1
    close(remat, plain)


def temporaries(quant, remat):
    cfg = tiny_config(layers=8, width=128, heads=4, kv_heads=4, head_dim=32, ffn=256)
    base = jax.eval_shape(functools.partial(tiny_base, cfg=cfg, quant=quant), jax.random.key(0))
    adapters = jax.eval_shape(lambda b: init_lora(jax.random.key(0), b, LoraConfig(rank=2)), base)
    tokens, mask = jax.ShapeDtypeStruct((1, 64), jnp.int32), jax.ShapeDtypeStruct((1, 64), bool)

    def loss(adapters, base, tokens, mask):
        return jnp.sum(forward(base, adapters, tokens, mask, cfg, remat=remat))

    memory = jax.jit(jax.grad(loss)).lower(adapters, base, tokens, mask).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_remat_saves_most_of_the_activations():
    assert temporaries(None, remat="full") < 0.4 * temporaries(None, remat="none")


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_4_bit_gradient_never_holds_all_dense_weights(remat):
    """The step in 4 bits takes as much beside the dense one as a layer or two dequantized; all eight are 4 MiB."""
    one_layer = 4 * (4 * 128 * 128 + 3 * 128 * 256)
    assert temporaries(NF4, remat) - temporaries(None, remat) < 2 * one_layer


@pytest.mark.parametrize("quant", [None, NF4], ids=["dense", "nf4"])
def test_fresh_adapters_and_none_are_the_base_itself(quant):
    cfg, base, adapters = model(quant=quant)
    fresh = init_lora(jax.random.key(3), base, LoraConfig(rank=2, dropout=0.5))
    want = run(base, None, TOKENS, MASK, cfg=cfg)
    np.testing.assert_allclose(run(base, fresh, TOKENS, MASK, cfg=cfg), want, atol=1e-6)
    np.testing.assert_allclose(run(base, {"layers": {}}, TOKENS, MASK, cfg=cfg), want, atol=1e-6)
    assert np.abs(run(base, adapters, TOKENS, MASK, cfg=cfg) - want).max() > 0.1


def test_dropout_is_keyed_and_off_without_a_key():
    cfg, base, _ = model()
    dropping = tiny_adapters(jax.random.key(1), base, dropout=0.5)
    still = tiny_adapters(jax.random.key(1), base, dropout=0.0)
    one, again, other = (run(base, dropping, TOKENS, MASK, cfg=cfg, dropout_key=jax.random.key(i)) for i in (0, 0, 1))
    off = run(base, dropping, TOKENS, MASK, cfg=cfg)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2 and np.abs(one - off).max() > 1e-2
    np.testing.assert_array_equal(off, run(base, still, TOKENS, MASK, cfg=cfg))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_every_linear_of_every_layer_drops_with_its_own_key(monkeypatch, remat):
    """Seven keys in each layer, all different, and different from those of another step."""
    cfg, base, adapters = model()
    seen = []

    def record(x, lora, key, number):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data).ravel().tolist())), jax.random.key_data(key))
        return jnp.zeros((*x.shape[:-1], lora.b.shape[-1]), x.dtype)

    monkeypatch.setattr(block, "apply_lora", record)
    for i in (0, 1):
        key = jax.random.key(i)
        jax.block_until_ready(forward(base, adapters, TOKENS, MASK, cfg, dropout_key=key, remat=remat))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 2 * 7 * cfg.layers


def test_query_and_key_drop_different_inputs():
    layer = {"q_proj": jnp.zeros((8, 8)), "k_proj": jnp.zeros((8, 8))}
    shapes = {name: w[None] for name, w in layer.items()}
    lora = init_lora(jax.random.key(0), {"layers": shapes}, LoraConfig(8, 8.0, 0.5, ("q_proj",)))["layers"]["q_proj"]
    lora = lora.replace(a=jnp.eye(8), b=jnp.eye(8))
    loras, x = {"q_proj": lora, "k_proj": lora}, jnp.ones((9, 8))
    outs = [linear(x, layer, loras, name, jax.random.key(0)) for name in layer]
    assert 0.2 < (outs[0] != outs[1]).mean() < 0.8


def test_prefill_keeps_keys_and_values_and_the_last_state():
    cfg, base, adapters = model("qwen3")
    last, cache = jax.jit(functools.partial(prefill, cfg=cfg))(base, adapters, TOKENS, MASK)
    np.testing.assert_allclose(last, run(base, adapters, TOKENS, MASK, cfg=cfg)[:, -1], atol=1e-5)
    assert cache.k_LBPKH.shape == cache.v_LBPKH.shape == (cfg.layers, 2, 6, cfg.kv_heads, cfg.head_dim)
    np.testing.assert_array_equal(cache.length_B, [3, 6])


def groups(cfg, prompts=(2, 5), completions=((1, 4, 3), (4, 2, 1)), length=4, seed=5):
    """Ragged prompts ``[B, P]`` and ragged completions ``[B, G, C]`` with their masks."""
    prompt, prompt_mask = pad(ragged(seed, prompts, cfg.vocab_size), max(prompts), "left", fill=2)
    rows = ragged(seed + 1, [n for row in completions for n in row], cfg.vocab_size)
    tokens, mask = pad(rows, length, "right", fill=2)
    shape = (len(prompts), -1, length)
    return prompt, prompt_mask, tokens.reshape(shape), mask.reshape(shape)


def repeated(base, adapters, prompts, prompt_mask, completions, mask, *, cfg):
    """What :func:`forward_groups` must equal: each completion after its own copy of the prompt."""
    batch, group, length = completions.shape

    def rows(prompt, own):
        prompt = jnp.broadcast_to(prompt[:, None], (batch, group, prompt.shape[1]))
        return jnp.concatenate([prompt, own], axis=-1).reshape(batch * group, -1)

    hidden = forward(base, adapters, rows(prompts, completions), rows(prompt_mask, mask), cfg)
    first = prompts.shape[1] - 1
    return hidden[:, first : first + length].reshape(batch, group, length, -1)


def compare_groups(cfg, base, adapters, arrays):
    mask = arrays[3][..., None].astype(jnp.float32)

    def scalar(f):
        # Weights that differ everywhere, so that no exchange of samples or positions can hide.
        def loss(adapters):
            hidden = jnp.sin(f(base, adapters, *arrays, cfg=cfg)) * mask
            weights = jax.random.normal(jax.random.key(9), hidden.shape)
            return jnp.sum(hidden * weights), hidden

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    found, want = scalar(forward_groups)(adapters), scalar(repeated)(adapters)
    np.testing.assert_allclose(found[0][1], want[0][1], rtol=0, atol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want[1])) > 0.1
    close(found[1], want[1], rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize(("family", "quant"), [("llama", NF4), ("mistral", None)])
def test_shared_prompts_equal_repeated_prompts_in_value_and_gradient(family, quant):
    cfg, base, adapters = model(family, quant, qkv_bias=True, qk_norm=True)
    compare_groups(cfg, base, adapters, groups(cfg))


@pytest.mark.parametrize(
    "shape",
    [
        {"prompts": (1,), "completions": ((1,),), "length": 1},
        {"prompts": (3, 1), "completions": ((1, 1), (1, 1)), "length": 1},
        {"prompts": (1, 4), "completions": ((3,), (2,)), "length": 3},
    ],
    ids=["one token after one token", "one new token", "a group of one"],
)
def test_smallest_shapes(shape):
    cfg, base, adapters = model("mistral")
    compare_groups(cfg, base, adapters, groups(cfg, **shape))


def test_samples_of_a_group_do_not_see_each_other():
    cfg, base, adapters = model()
    prompts, prompt_mask, completions, mask = groups(cfg)
    before = run_groups(base, adapters, prompts, prompt_mask, completions, mask, cfg=cfg)
    changed = completions.at[:, 1].set((completions[:, 1] + 1) % cfg.vocab_size)
    after = run_groups(base, adapters, prompts, prompt_mask, changed, mask, cfg=cfg)
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=1e-6)
    assert np.abs(after[0, 1, 1:] - before[0, 1, 1:]).max() > 1e-2


def test_remat_of_shared_prompts_changes_nothing():
    cfg, base, adapters = model(quant=NF4)
    arrays = groups(cfg)

    def gradient(remat):
        def loss(adapters):
            return jnp.sum(jnp.sin(forward_groups(base, adapters, *arrays, cfg, remat=remat)))

        return jax.jit(jax.grad(loss))(adapters)

    close(gradient("full"), gradient("none"))
