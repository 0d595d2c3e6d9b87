"""LoRA: what is adapted, how it begins, and that merging it changes nothing."""

import dataclasses
import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS, LoraConfig, target_names
from lqlm.adapters.init import init_lora
from lqlm.adapters.lora import Lora, apply_lora, thin
from lqlm.adapters.merge import merge
from lqlm.errors import UserError
from lqlm.models.transformer import forward
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config()
OUT = {"q_proj": 24, "k_proj": 12, "v_proj": 12, "o_proj": 16, "gate_proj": 24, "up_proj": 24, "down_proj": 16}
IN = {"q_proj": 16, "k_proj": 16, "v_proj": 16, "o_proj": 24, "gate_proj": 16, "up_proj": 16, "down_proj": 24}
KINDS = {"dense": None, "double": QuantConfig(), "single": QuantConfig(double=False)}
QUANTS = pytest.mark.parametrize("quant", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize(
    ("targets", "hit"),
    [
        (("all-linear",), LINEARS),
        (("q_proj",), ("q_proj",)),
        (("v_proj", "q_proj"), ("q_proj", "v_proj")),
        (("[qkvo]_proj",), ("q_proj", "k_proj", "v_proj", "o_proj")),
        (("(gate|up|down)_proj", "q_proj"), ("q_proj", "gate_proj", "up_proj", "down_proj")),
        (("q_proj", "all-linear"), LINEARS),
    ],
)
def test_targets(targets, hit):
    assert target_names(targets) == hit


@pytest.mark.parametrize("targets", [("lm_head",), ("q_proj", "qq_proj"), ("q_pro",), ("proj",)])
def test_a_pattern_that_hits_nothing_is_an_error(targets):
    with pytest.raises(UserError, match="hits no linear layer") as raised:
        target_names(targets)
    assert repr(targets[-1]) in str(raised.value) and "q_proj" in str(raised.value)


def test_no_target_at_all_is_an_error():
    with pytest.raises(UserError, match="targets"):
        LoraConfig(targets=())


def test_what_is_no_regular_expression_is_named():
    with pytest.raises(UserError, match=r"'\(q_proj' is not a regular expression"):
        target_names(("(q_proj",))


@QUANTS
def test_shapes(quant):
    base = tiny_base(jax.random.key(0), CFG, quant)
    layers = init_lora(jax.random.key(0), base, LoraConfig(rank=3))["layers"]
    assert tuple(layers) == LINEARS
    for name, lora in layers.items():
        chex.assert_shape([lora.a, lora.b], [(CFG.layers, IN[name], 3), (CFG.layers, 3, OUT[name])])
        assert lora.a.dtype == lora.b.dtype == jnp.float32


@QUANTS
def test_abstract_shapes_are_enough(quant):
    make = functools.partial(tiny_base, cfg=CFG, quant=quant)
    abstract = jax.eval_shape(make, jax.random.key(0))
    cfg = LoraConfig(rank=2, targets=("[qv]_proj",))
    found = jax.eval_shape(functools.partial(init_lora, cfg=cfg), jax.random.key(0), abstract)
    concrete = init_lora(jax.random.key(0), abstract, cfg)  # the base itself may stay abstract
    chex.assert_trees_all_equal_shapes_and_dtypes(found, concrete)
    chex.assert_trees_all_equal(concrete, init_lora(jax.random.key(0), make(jax.random.key(5)), cfg))


def test_rank_dropout_scaling_and_dtype_reach_the_adapters():
    base = tiny_base(jax.random.key(0), CFG)
    settings = LoraConfig(rank=4, alpha=10.0, dropout=0.25, targets=("k_proj",), dtype="bfloat16")
    lora = init_lora(jax.random.key(0), base, settings)["layers"]["k_proj"]
    assert (lora.scaling, lora.dropout, lora.a.dtype, lora.b.dtype) == (2.5, 0.25, jnp.bfloat16, jnp.bfloat16)


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_rank_that_does_not_fit(rank):
    base = tiny_base(jax.random.key(0), CFG)
    with pytest.raises(UserError, match=f"rank {rank} does not fit k_proj, 16 x 12; choose 1 to 12"):
        init_lora(jax.random.key(0), base, LoraConfig(rank=rank, targets=("k_proj",)))


def test_a_rank_that_only_some_layers_hold_is_refused():
    base = tiny_base(jax.random.key(0), CFG)
    with pytest.raises(UserError, match="rank 13"):
        init_lora(jax.random.key(0), base, LoraConfig(rank=13))


@pytest.mark.parametrize("changes", [{"dropout": 1.0}, {"dropout": -0.1}, {"dtype": "int8"}, {"dtype": "float31"}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        LoraConfig(**changes)


def test_init_is_kaiming_uniform_and_a_no_op():
    shapes = {"q_proj": jax.ShapeDtypeStruct((3, 400, 64), jnp.float32)}
    cfg = LoraConfig(rank=50, targets=("q_proj",))
    lora = init_lora(jax.random.key(0), {"layers": shapes}, cfg)["layers"]["q_proj"]
    bound = 400**-0.5  # sqrt(6 / ((1 + 5) in)), a = sqrt 5
    assert not lora.b.any()
    assert 0.99 * bound < jnp.max(lora.a) <= bound and -bound <= jnp.min(lora.a) < -0.99 * bound
    # 60,000 draws: the standard errors are 0.0024 and 0.0018 bounds.
    assert abs(jnp.mean(lora.a)) < 0.02 * bound
    assert abs(jnp.std(lora.a) - bound / 3**0.5) < 0.02 * bound


def test_every_layer_and_every_linear_begins_differently():
    shapes = {name: jax.ShapeDtypeStruct((4, 16, 16), jnp.float32) for name in LINEARS}
    layers = init_lora(jax.random.key(0), {"layers": shapes}, LoraConfig(rank=2))["layers"]
    first = np.stack([np.asarray(layers[name].a[i, 0]) for name in LINEARS for i in range(4)])
    assert len(np.unique(first, axis=0)) == 7 * 4
    again, other = (init_lora(jax.random.key(i), {"layers": shapes}, LoraConfig(rank=2))["layers"] for i in (0, 1))
    chex.assert_trees_all_equal(layers, again)
    assert not np.any(np.asarray(layers["q_proj"].a) == np.asarray(other["q_proj"].a))


@hypothesis.given(st.integers(1, 4), st.floats(0.25, 8.0), st.integers(0, 2**31 - 1))
@hypothesis.settings(max_examples=8)
def test_apply_is_the_formula(rank, scaling, seed):
    rng = np.random.default_rng(seed)
    x, a, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 6), (6, rank), (rank, 5)))
    found = apply_lora(jnp.asarray(x), Lora(jnp.asarray(a), jnp.asarray(b), scaling))
    np.testing.assert_allclose(found, scaling * (x.astype(np.float64) @ a @ b), rtol=1e-4, atol=1e-4)


def test_apply_keeps_the_dtype_of_x():
    lora = Lora(jnp.ones((4, 2)), jnp.ones((2, 3)), 2.0, dropout=0.5)
    x = jnp.ones((5, 4), jnp.bfloat16)
    assert apply_lora(x, lora).dtype == apply_lora(x, lora, jax.random.key(0)).dtype == jnp.bfloat16


DROPPING = Lora(jnp.eye(6), jnp.eye(6), 1.0, dropout=0.3)  # shows the dropped input itself


def test_dropout_scales_what_it_keeps_and_preserves_the_mean():
    x = jnp.full((20_000, 6), 2.0)
    dropped = np.asarray(apply_lora(x, DROPPING, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(dropped.round(4)), [0.0, 2.8571], atol=1e-4)
    # 120,000 draws of standard deviation 1.31: six standard errors are 0.023.
    assert abs(dropped.mean() - 2.0) < 0.023
    assert abs((dropped == 0).mean() - 0.3) < 6 * (0.3 * 0.7 / dropped.size) ** 0.5


def test_dropout_is_keyed_and_off_without_a_key():
    x = jnp.ones((50, 6))
    one, again, other = (apply_lora(x, DROPPING, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_array_equal(apply_lora(x, DROPPING), x)
    np.testing.assert_array_equal(apply_lora(x, DROPPING.replace(dropout=0.0), jax.random.key(0)), x)


TOKENS, MASK = pad(ragged(0, (2, 6), CFG.vocab_size), 6, "left")
hidden = jax.jit(lambda base, adapters: forward(base, adapters, TOKENS, MASK, CFG))


@QUANTS
@pytest.mark.parametrize("targets", [("all-linear",), ("[qv]_proj", "down_proj")], ids=["all", "some"])
def test_merged_equals_unmerged(quant, targets):
    base = tiny_base(jax.random.key(0), CFG, quant)
    adapters = tiny_adapters(jax.random.key(1), base, targets=targets)
    merged = merge(base, adapters)
    assert not any(isinstance(w, QTensor) for w in merged["layers"].values())
    want = hidden(base, adapters)
    np.testing.assert_allclose(hidden(merged, None)[MASK], want[MASK], rtol=1e-4, atol=1e-4)
    assert np.abs(want - hidden(base, None))[MASK].max() > 0.1


@QUANTS
def test_merging_nothing_dequantizes(quant):
    base = tiny_base(jax.random.key(0), CFG, quant)
    merged = merge(base, None)
    for name in LINEARS:
        w = base["layers"][name]
        np.testing.assert_array_equal(merged["layers"][name], dequantize(w) if quant else w)
    assert merged["embed"] is base["embed"] and merged.keys() == base.keys()
    assert merged["layers"].keys() == base["layers"].keys()


def test_merge_adds_in_float32_and_keeps_or_takes_the_dtype():
    base = tiny_base(jax.random.key(0), CFG, dtype="bfloat16")
    adapters = tiny_adapters(jax.random.key(1), base)
    kept, wide = merge(base, adapters)["layers"], merge(base, adapters, jnp.dtype("float32"))["layers"]
    w, lora = np.asarray(base["layers"]["q_proj"], np.float64), adapters["layers"]["q_proj"]
    want = w + lora.scaling * (np.asarray(lora.a, np.float64) @ np.asarray(lora.b, np.float64))
    assert kept["q_proj"].dtype == jnp.bfloat16 and wide["q_proj"].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(kept["q_proj"], np.float64), want, rtol=2**-8)
    np.testing.assert_allclose(wide["q_proj"], want, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_chain_rule_of_the_merged_weight():
    """With W = W0 + s A B: dA = s dW B^T and dB = s A^T dW."""
    base = tiny_base(jax.random.key(0), CFG)
    adapters = tiny_adapters(jax.random.key(1), base)

    def loss(base, adapters):
        return jnp.sum(jnp.sin(forward(base, adapters, TOKENS, MASK, CFG)) * MASK[..., None].astype(jnp.float32))

    found = jax.jit(jax.grad(loss, argnums=1))(base, adapters)["layers"]
    dense = jax.jit(jax.grad(loss))(merge(base, adapters), None)["layers"]
    for name, lora in adapters["layers"].items():
        dw, a, b = (np.asarray(x, np.float64) for x in (dense[name], lora.a, lora.b))
        np.testing.assert_allclose(found[name].a, lora.scaling * dw @ b.swapaxes(1, 2), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[name].b, lora.scaling * a.swapaxes(1, 2) @ dw, rtol=1e-3, atol=1e-4)
        assert np.abs(found[name].a).max() > 1e-2


def test_config_is_hashable_and_frozen():
    assert hash(LoraConfig()) == hash(LoraConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoraConfig().rank = 3


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 3), (3, 12), (4, 4), (5, 1)])
@pytest.mark.parametrize("lead", [(), (6,), (2, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_thin_products_have_the_gradients_of_a_product(inputs, outputs, lead, dtype):
    rng = np.random.default_rng(0)
    x, w, dy = (
        jnp.asarray(rng.standard_normal(s), dtype) for s in ((*lead, inputs), (inputs, outputs), (*lead, outputs))
    )
    value, pull = jax.vjp(thin, x, w)
    expected, plain = jax.vjp(jnp.matmul, x, w)
    chex.assert_trees_all_equal_shapes_and_dtypes((value, pull(dy)), (expected, plain(dy)))
    close = {"atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 5e-2}
    chex.assert_trees_all_close((value, jax.jit(pull)(dy)), (expected, plain(dy)), **close)


def test_an_adapters_gradient_transposes_no_wide_operand():
    """XLA computes what is transposed again column by column, with all that led to it."""
    lora = Lora(a=jnp.ones((48, 4)), b=jnp.ones((4, 80)), scaling=1.0)

    def loss(lora, x):
        return jnp.sum(jnp.tanh(apply_lora(jax.nn.silu(x), lora)) ** 2)

    text = jax.jit(jax.grad(loss)).lower(lora, jnp.ones((1, 33, 48))).compile().as_text()
    for wide in ("f32[48,33]", "f32[80,33]", "f32[33,48]{0,1}", "f32[33,80]{0,1}"):
        assert wide not in text
