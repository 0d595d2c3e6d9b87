"""Defects measured in bitsandbytes 0.50.2 on the CPU, each with its test that lqlm does not have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.transformer import forward, logits
from lqlm.quant import CODEBOOKS, QuantConfig, dequantize, dynamic_map, matmul, quantize
from lqlm.quant.blockwise import dequantize_blockwise, quantize_blockwise
from tests.tiny import tiny_adapters, tiny_base, tiny_config


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_represent_zero_and_every_small_value(signed):
    """There, 0 becomes 2.1e-5 of the maximum, and the codes of values below 2e-5 are never used."""
    levels = dynamic_map(signed)
    codes, absmax = jax.jit(lambda x: quantize_blockwise(x, levels, 256))(jnp.asarray(levels))
    np.testing.assert_array_equal(codes, np.arange(256))
    back = np.asarray(dequantize_blockwise(codes, absmax, levels, 256))
    np.testing.assert_array_equal(back, levels)
    assert back[int(np.flatnonzero(levels == 0)[0])] == 0


def test_eight_bit_weights_represent_zero():
    w = jnp.zeros((256, 4)).at[0].set(1.0)
    np.testing.assert_array_equal(dequantize(quantize(w, QuantConfig("dynamic8"))), w)


CFG = tiny_config(vocab_size=23, width=64, ffn=40)  # outputs of 24, 12 and 40; inputs of 64 (rows), 24 and 40 (flat)


def loss(adapters, base, tokens):
    hidden = forward(base, adapters, tokens, jnp.ones(tokens.shape, bool), CFG)
    return jnp.mean(jax.nn.logsumexp(logits(base, hidden), axis=-1))


@jax.jit
def greedy(adapters, base, tokens):
    """A few tokens decoded in evaluation."""
    for _ in range(2):
        hidden = forward(base, adapters, tokens, jnp.ones(tokens.shape, bool), CFG)
        best = jnp.argmax(logits(base, hidden)[:, -1:], axis=-1).astype(jnp.int32)
        tokens = jnp.concatenate([tokens, best], axis=1)
    return tokens


def test_evaluating_changes_neither_weights_nor_gradients():
    """There, the first evaluation packs the weights anew, drops their double quantization and breaks gradients."""
    base = tiny_base(jax.random.key(0), CFG, QuantConfig())
    adapters = tiny_adapters(jax.random.key(1), base)
    tokens = jax.random.randint(jax.random.key(2), (2, 6), 0, CFG.vocab_size)
    before, kept = jax.jit(jax.value_and_grad(loss))(adapters, base, tokens), jax.tree.map(np.array, base)
    greedy(adapters, base, tokens)
    after = jax.jit(jax.value_and_grad(loss))(adapters, base, tokens)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    jax.tree.map(np.testing.assert_array_equal, base, kept)
    dense = {**base, "layers": {k: dequantize(w) if k.endswith("proj") else w for k, w in base["layers"].items()}}
    want = jax.jit(jax.value_and_grad(loss))(adapters, dense, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after, want)


@pytest.mark.parametrize("outputs", [1, 7, 33, 65])
@pytest.mark.parametrize("inputs", [64, 66])
def test_outputs_need_not_be_a_multiple_of_32(inputs, outputs):
    q = quantize(jax.random.normal(jax.random.key(0), (inputs, outputs)))
    x = jax.random.normal(jax.random.key(1), (3, inputs))
    product = lambda x, w: jnp.sum(jnp.sin(matmul(x, w)))  # noqa: E731
    found, want = (jax.jit(jax.value_and_grad(product))(x, w) for w in (q, dequantize(q)))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], want[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", [2, 48, 62, 66, 96, 126])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_blocks_that_cross_rows_keep_their_own_maxima(name, inputs):
    """There, a matrix [out, in] with even ``in`` that is no multiple of the block gets maxima of other blocks."""
    w = np.random.default_rng(0).standard_normal((inputs, 20)).astype(np.float32)
    w *= np.float32(10.0) ** np.arange(20, dtype=np.float32)[None] * np.float32(1e-9)  # each output in its own decade
    q = quantize(jnp.asarray(w), QuantConfig(name, double=False))
    flat = w.T.reshape(-1)
    tops = np.repeat([np.abs(flat[i : i + 64]).max() for i in range(0, flat.size, 64)], 64)[: flat.size]
    error = np.abs(np.asarray(dequantize(q)).T.reshape(-1) - flat) / tops
    assert error.max() < np.diff(np.sort(CODEBOOKS[name])).max() / 2 + 1e-6
