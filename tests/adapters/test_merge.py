"""Adapters merged into the base: the same function, what precision it costs, and back again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS, LoraConfig
from lqlm.adapters.merge import merge, merge_groups, merge_reported, unmerge
from lqlm.errors import UserError
from lqlm.models.transformer import forward
from lqlm.quant.mixed import MixedStack, dense, mixed_stack, unstack
from lqlm.quant.qtensor import QTensor, QuantConfig, quantize
from tests.adapters.cases import KINDS, dense_base, random_adapters, run, tuned
from tests.tiny import pad, ragged, tiny_base, tiny_config

QUANT = QuantConfig()


@functools.cache
def held(how: str):
    """The tiny base dense, quantized, or in several formats."""
    base = dense_base()
    if how == "dense":
        return base
    layers = dict(base["layers"])
    for name in LINEARS if how == "nf4" else ("q_proj", "down_proj"):
        layers[name] = quantize(layers[name], QUANT)
        if how == "mixed":
            layers[name] = mixed_stack([base["layers"][name][0], unstack(layers[name])[1]])
    return {**base, "layers": layers}


@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "dense") for kind in KINDS), ("dora", "nf4"), ("ia3", "nf4"), ("dora", "mixed")]
)
def test_merged_equals_unmerged(kind, how):
    base = held(how)
    merged = merge(base, tuned(kind))
    assert not any(isinstance(w, QTensor | MixedStack) for w in merged["layers"].values())
    assert merged["layers"].keys() == base["layers"].keys()
    found, want = run(merged, None), run(base, tuned(kind))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    assert np.abs(want - run(held("dense"), None)).max() > 0.1


def test_a_layer_that_is_kept_in_16_bits_does_not_round_the_others():
    base, adapters = held("nf4"), tuned("bias")
    whole = dense_base()["layers"]["q_proj"][0].astype(jnp.bfloat16)
    layers = base["layers"] | {"q_proj": mixed_stack([whole, unstack(base["layers"]["q_proj"])[1]])}
    merged = merge({**base, "layers": layers}, adapters)["layers"]["q_proj"]
    assert merged.dtype == jnp.float32
    np.testing.assert_array_equal(merged[1], merge(base, adapters)["layers"]["q_proj"][1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["dense", "mixed"])
def test_what_is_lost_and_nothing_of_it_comes_back(kind, how):
    base = held(how)
    exact, short = (merge_reported(base, tuned(kind), dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert exact.error.keys() == short.error.keys() == tuned(kind)["layers"].keys()
    for name in exact.error:
        assert exact.error[name].shape == (2,) and (exact.error[name] == 0).all()
        assert ((short.error[name] > 0) & (short.error[name] < 0.05)).all()  # bfloat16 rounds by up to 2^-9 of a weight
        assert short.base["layers"][name].dtype == jnp.bfloat16
    for merged in (exact, short):
        back = unmerge(merged)
        assert jax.tree.structure(back) == jax.tree.structure(base)
        assert all(one is other for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(base)))


def test_quantizing_again_loses_what_little_was_learned():
    base = held("nf4")
    small = jax.tree.map(lambda x: x * np.float32(0.3), tuned("bias"))
    merged = merge_reported(base, small, quant=QUANT)
    assert isinstance(merged.base["layers"]["q_proj"], QTensor)
    assert merged.base["layers"]["k_proj"] is base["layers"]["k_proj"]  # not adapted, not touched
    assert all((merged.error[name] > 0.5).all() for name in ("q_proj", "up_proj")), merged.error
    assert unmerge(merged) is base
    codes, before = (tree["layers"]["q_proj"].codes for tree in (merged.base, base))
    assert 0 < (np.asarray(codes) != np.asarray(before)).mean() < 0.5


def test_the_error_is_the_share_of_what_was_learned():
    base, adapters = held("dense"), tuned("lora")
    merged = merge_reported(base, adapters, quant=QUANT)
    w, exact, found = (
        np.asarray(x, np.float64)
        for x in (
            base["layers"]["k_proj"],
            merge(base, adapters)["layers"]["k_proj"],
            dense(merged.base["layers"]["k_proj"]),
        )
    )
    want = np.linalg.norm(found - exact, axis=(1, 2)) / np.linalg.norm(exact - w, axis=(1, 2))
    np.testing.assert_allclose(merged.error["k_proj"], want, rtol=1e-4)


def test_learned_values_are_measured_against_the_base_as_it_is_held():
    """A base that dequantizes into bfloat16 is merged from the numbers that it holds, not from rounded ones."""
    base = held("nf4")
    q = base["layers"]["q_proj"]
    short = {**base, "layers": {**base["layers"], "q_proj": q.replace(dtype=jnp.dtype("bfloat16"))}}
    nothing = jax.tree.map(jnp.zeros_like, tuned("bias"))
    kept = {**nothing, "biases": {}}
    merged = merge(short, kept, jnp.float32)["layers"]["q_proj"]
    np.testing.assert_array_equal(merged, dense(q, jnp.float32))
    assert merge(short, kept)["layers"]["q_proj"].dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", ["prompt", "prefix", "full"])
def test_what_is_no_weight_cannot_be_merged(kind):
    with pytest.raises(UserError, match=f"adapters of kind '{kind}' cannot be added to weights"):
        merge(held("dense"), {kind: jnp.zeros((2, 16))})


def test_a_bias_needs_a_place():
    adapters = random_adapters(held("dense"), LoraConfig(rank=2, lora_bias=True, targets=("up_proj",)))
    with pytest.raises(UserError, match="up_proj: the adapter has a bias and the layer has none"):
        merge(held("dense"), adapters)


WIDE = tiny_config(width=64, ffn=64, head_dim=16, heads=4)
ROWS, SEEN = pad(ragged(0, (3, 5), WIDE.vocab_size), 5, "left")
run_wide = jax.jit(lambda base, adapters: forward(base, adapters, ROWS, SEEN, WIDE)[SEEN])


def wide_base(how: str):
    base = tiny_base(jax.random.key(0), WIDE, QuantConfig(block=32))
    layers = dict(base["layers"])
    if how == "mixed":
        whole = tiny_base(jax.random.key(0), WIDE)["layers"]
        for name in ("q_proj", "down_proj"):
            layers[name] = mixed_stack([unstack(layers[name])[0], whole[name][1]])
        other = quantize(whole["up_proj"][1], QuantConfig("nf3", block=64))
        layers["up_proj"] = mixed_stack([unstack(layers["up_proj"])[0], other])
    return {**base, "layers": layers}


def codes_of(base):
    found = jax.tree.leaves(base["layers"])
    return [x for x in found if x.dtype == jnp.uint8]


@pytest.mark.parametrize("how", ["nf4", "mixed"])
def test_groups_merge_into_shifts_without_loss(how):
    base = wide_base(how)
    cfg = LoraConfig(rank=1, alpha=2.0, group=64, alpha_pattern=(("layers.1.*q_proj", 3.0),))
    adapters = random_adapters(base, cfg)
    merged = merge_groups(base, adapters)
    np.testing.assert_allclose(run_wide(merged, None), run_wide(base, adapters), rtol=1e-4, atol=2e-5)
    assert np.abs(run_wide(merged, None) - run_wide(base, None)).max() > 0.1
    for one, other in zip(codes_of(merged), codes_of(base), strict=True):
        assert one is other
    twice = merge_groups(merged, adapters)  # a second adapter on top of the first
    before, once, more, other = (
        np.asarray(dense(tree["layers"]["k_proj"], jnp.float32))
        for tree in (base, merged, twice, merge(base, adapters))
    )
    np.testing.assert_allclose(more - once, once - before, atol=1e-4)
    np.testing.assert_allclose(once, other, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "quant", "words"),
    [
        ({"group": 32}, None, "q_proj: a group of 32 needs a weight quantized in blocks that divide it"),
        (
            {"group": 32},
            QuantConfig(block=64),
            "q_proj: a group of 32 needs a weight quantized in blocks that divide it",
        ),
        ({}, QuantConfig(block=32), "q_proj: only group-wise LoRA .* merges into shifts; use merge"),
        ({"group": 32, "lora_bias": True}, QuantConfig(block=32), "q_proj: only group-wise LoRA .* without a bias"),
    ],
)
def test_what_does_not_merge_into_shifts_is_refused(settings, quant, words):
    base = jax.eval_shape(functools.partial(tiny_base, cfg=WIDE, quant=quant), jax.random.key(0))
    adapters = random_adapters(base, LoraConfig(rank=1, **settings))
    with pytest.raises(UserError, match=words):
        merge_groups(base, adapters)
