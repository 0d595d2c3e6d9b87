"""Stacks of several formats against the same layers run dense."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS, LoraConfig
from lqlm.adapters.init import init_lora
from lqlm.models.transformer import forward
from lqlm.quant.matmul import matmul
from lqlm.quant.mixed import MixedStack, dense, layers_of, mixed_stack, unstack
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

NF4, NF3, INT4 = QuantConfig(), QuantConfig("nf3", block=32), QuantConfig("int4", double=False)


def matrices(dtype=jnp.float32):
    """Six layers in four formats, in no order."""
    ws = jax.random.normal(jax.random.key(0), (6, 64, 32)).astype(dtype)
    return [ws[0], *(quantize(w, cfg) for w, cfg in zip(ws[1:5], (NF4, NF3, NF4, INT4))), ws[5]]


def test_stacking_and_taking_apart_are_inverses():
    layers = matrices()
    stack = mixed_stack(layers)
    assert isinstance(stack, MixedStack)
    assert stack.kinds == (0, 1, 2, 1, 3, 0) and stack.slots == (0, 0, 0, 1, 0, 1)
    assert stack.shape == (64, 32) and layers_of(stack) == (6, 64, 32)
    for found, given in zip(unstack(stack), layers, strict=True):
        chex.assert_trees_all_equal(found, given)
    again = mixed_stack(unstack(stack))
    assert jax.tree.structure(again) == jax.tree.structure(stack)


def test_layers_of_one_format_are_stacked_plainly():
    ws = jax.random.normal(jax.random.key(0), (3, 64, 32))
    np.testing.assert_array_equal(mixed_stack(list(ws)), ws)
    found = mixed_stack([quantize(w, NF4) for w in ws])
    assert isinstance(found, QTensor)
    chex.assert_trees_all_equal(found, quantize(ws, NF4))
    assert layers_of(found) == layers_of(ws) == (3, 64, 32)
    shifted = quantize(ws[0], NF4).replace(shift=jnp.zeros((1, 32)))
    assert isinstance(mixed_stack([shifted, quantize(ws[1], NF4)]), MixedStack)


def test_dense_is_the_layers_in_their_order():
    layers = matrices()
    want = np.stack([dequantize(w) if isinstance(w, QTensor) else w for w in layers])
    stack = mixed_stack(layers)
    np.testing.assert_array_equal(dense(stack), want)
    assert dense(stack, jnp.bfloat16).dtype == jnp.bfloat16
    one = jax.jit(lambda stack, layer: dense(stack.at(layer)))
    for layer in range(6):
        np.testing.assert_array_equal(one(stack, jnp.int32(layer)), want[layer])


def test_matmul_of_a_traced_layer_and_its_gradient():
    layers, x = matrices(), jax.random.normal(jax.random.key(1), (3, 64))
    stack = mixed_stack(layers)

    @jax.jit
    def run(x, layer):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(matmul(x, stack.at(layer)))))(x)

    for layer, w in enumerate(layers):
        w = np.asarray(dense(w), np.float64)
        y = np.asarray(x, np.float64) @ w
        value, grad = run(x, jnp.int32(layer))
        np.testing.assert_allclose(value, np.sin(y).sum(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(grad, np.cos(y) @ w.T, rtol=1e-3, atol=1e-3)


CFG = tiny_config("qwen2", layers=4)
TOKENS, MASK = pad(ragged(0, (3, 5), CFG.vocab_size), 5, "left")


def mixed_base(cfg=CFG, names=("q_proj", "down_proj")):
    """Every other layer of these in NF4, the first in NF3; one stack is NF4 throughout, the others are dense."""
    base = tiny_base(jax.random.key(0), cfg)
    layers = dict(base["layers"])
    for name in names:
        ws = layers[name]
        formats = [NF3, None, NF4, None, *[NF4] * cfg.layers][: cfg.layers]
        layers[name] = mixed_stack([w if fmt is None else quantize(w, fmt) for w, fmt in zip(ws, formats)])
    return {**base, "layers": {**layers, "v_proj": quantize(layers["v_proj"], NF4)}}


@functools.partial(jax.jit, static_argnames="remat")
def value_and_gradient(base, adapters, remat):
    def loss(adapters):
        hidden = forward(base, adapters, TOKENS, MASK, CFG, remat=remat, dropout_key=jax.random.key(3))
        return jnp.sum(jnp.where(MASK[..., None], jnp.sin(hidden), 0.0))

    return jax.value_and_grad(loss)(adapters)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_model_over_mixed_layers_equals_the_model_over_dense_ones(remat):
    base = mixed_base()
    plain = {**base, "layers": {n: dense(w) if n in LINEARS else w for n, w in base["layers"].items()}}
    adapters = tiny_adapters(jax.random.key(1), plain, dropout=0.3)
    found, want = value_and_gradient(base, adapters, remat), value_and_gradient(plain, adapters, "none")
    np.testing.assert_allclose(found[0], want[0], rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found[1], want[1])
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found[1]))


def temporaries(mixed: bool, remat: str) -> int:
    cfg = tiny_config(layers=8, width=128, heads=4, kv_heads=4, head_dim=32, ffn=256)
    make = (lambda: mixed_base(cfg, LINEARS[:2] + LINEARS[3:])) if mixed else lambda: tiny_base(jax.random.key(0), cfg)
    base = jax.eval_shape(make)
    adapters = jax.eval_shape(lambda base: init_lora(jax.random.key(0), base, LoraConfig(rank=2)), base)
    tokens, seen = jax.ShapeDtypeStruct((1, 64), jnp.int32), jax.ShapeDtypeStruct((1, 64), bool)

    def loss(adapters, base, tokens, seen):
        return jnp.sum(forward(base, adapters, tokens, seen, cfg, remat=remat))

    memory = jax.jit(jax.grad(loss)).lower(adapters, base, tokens, seen).compile().memory_analysis()
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_gradient_never_holds_all_layers_dense(remat):
    """A layer or two beside what the dense model takes, neither all eight (4 MiB) nor a copy of the stacks."""
    one_layer = 4 * (4 * 128 * 128 + 3 * 128 * 256)
    assert temporaries(True, remat) - temporaries(False, remat) < 3 * one_layer
