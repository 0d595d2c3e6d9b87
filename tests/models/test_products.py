"""Products in bfloat16 beside float32 everywhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.products import with_products
from lqlm.models.score import completion_logprobs
from lqlm.models.transformer import forward, logits
from lqlm.quant.matmul import matmul
from lqlm.quant.mixed import MixedStack, mixed_stack
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from tests.tiny import tiny_adapters, tiny_base, tiny_config

BF16 = jnp.dtype("bfloat16")


def rounded(x):
    """As bfloat16, in float32, on the host."""
    return np.asarray(jnp.asarray(x).astype(BF16).astype(jnp.float32))


@pytest.mark.parametrize("quantized", [True, False])
def test_operands_are_rounded_and_sums_are_not(quantized):
    w = jax.random.normal(jax.random.key(0), (128, 48))
    x = jax.random.normal(jax.random.key(1), (5, 128))
    held = quantize(w, QuantConfig(), BF16) if quantized else w.astype(BF16)
    y, pull = jax.vjp(lambda x: matmul(x, held), x)
    assert y.dtype == jnp.float32
    dense = rounded(dequantize(held, BF16) if quantized else held)
    np.testing.assert_allclose(y, rounded(x) @ dense, rtol=2e-5, atol=2e-5)
    dy = jax.random.normal(jax.random.key(2), y.shape)
    np.testing.assert_allclose(pull(dy)[0], rounded(dy) @ dense.T, rtol=2e-5, atol=2e-5)


def test_a_dense_weight_has_its_gradient():
    x, w = jax.random.normal(jax.random.key(0), (2, 3, 64)), jax.random.normal(jax.random.key(1), (64, 8)).astype(BF16)
    y, pull = jax.vjp(matmul, x, w)
    dy = jax.random.normal(jax.random.key(2), y.shape)
    expected = np.einsum("abi,abo->io", rounded(x), rounded(dy))
    np.testing.assert_allclose(pull(dy)[1].astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)


def test_the_narrower_type_is_multiplied_in_whichever_side_has_it():
    x, w = jnp.full((1, 64), 1.001), jnp.full((64, 64), 1.001)
    for a, b in ((x, w.astype(BF16)), (x.astype(BF16), w)):
        assert matmul(a, b).dtype == a.dtype and float(matmul(a, b)[0, 0]) == 64.0


def model(quantized=True):
    cfg = tiny_config()
    return cfg, tiny_base(jax.random.key(5), cfg, QuantConfig(block=32) if quantized else None)


@pytest.mark.parametrize("quantized", [True, False])
def test_hidden_states_stay_in_float32_and_near(quantized):
    cfg, base = model(quantized)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, cfg.vocab_size, jnp.int32)
    mask = jnp.ones(tokens.shape, bool)
    near = with_products(base, BF16)
    exact, found = forward(base, None, tokens, mask, cfg), forward(near, None, tokens, mask, cfg)
    assert found.dtype == jnp.float32 and not np.array_equal(exact, found)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.1)
    assert logits(near, found).dtype == jnp.float32
    np.testing.assert_allclose(logits(near, found), logits(base, exact), rtol=0, atol=0.1)


def test_codes_and_everything_else_stay_as_they_are():
    _, base = model()
    near = with_products(base, BF16, head=False)
    for name, w in base["layers"].items():
        if isinstance(w, QTensor):
            assert near["layers"][name].dtype == BF16
            np.testing.assert_array_equal(near["layers"][name].codes, w.codes)
        else:
            np.testing.assert_array_equal(near["layers"][name], w)
    assert near["embed"] is base["embed"] and ("head" in near) == ("head" in base)
    assert with_products(base, BF16)["head"].dtype == BF16


def test_layers_in_several_formats():
    w = jax.random.normal(jax.random.key(0), (2, 64, 64))
    stack = mixed_stack([quantize(w[0]), w[1]])
    cast = with_products({"layers": {"q_proj": stack}}, BF16, head=False)["layers"]["q_proj"]
    assert isinstance(cast, MixedStack) and {np.dtype(part.dtype) for part in cast.stacks} == {np.dtype(BF16)}


def test_the_sampler_agrees_with_the_trainer():
    cfg, base = model()
    adapters = tiny_adapters(jax.random.key(6), base)
    near = with_products(base, BF16)
    prompts = jax.random.randint(jax.random.key(0), (2, 6), 0, cfg.vocab_size, jnp.int32)
    mask = jnp.ones(prompts.shape, bool)
    ends = {"eos_ids": (-1,), "pad_id": 0}
    done = generate(near, adapters, prompts, mask, jax.random.key(1), cfg, SamplingConfig(5), group=3, **ends)
    logp, _ = completion_logprobs(near, adapters, prompts, mask, done.tokens_BGC, done.mask_BGC, cfg)
    np.testing.assert_allclose(done.logp_BGC, logp, rtol=0, atol=2e-3)
