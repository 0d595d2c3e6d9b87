"""Layers apart, their matrices transposed: what decoding reads, equal to the stacks that it was made of."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.decoding import MOST_ROWS, for_decoding
from lqlm.models.groups import prefill
from lqlm.models.products import with_products
from lqlm.models.transformer import forward
from lqlm.quant.matmul import matmul
from lqlm.quant.qtensor import QuantConfig
from lqlm.quant.transposed import Transposed
from tests.tiny import tiny_adapters, tiny_base, tiny_config

BF16 = jnp.dtype("bfloat16")


def narrow(dtype="float32", **changes):
    cfg = tiny_config(**changes)
    return cfg, with_products(tiny_base(jax.random.key(5), cfg, None, dtype), "bfloat16")


@given(st.sampled_from([(), (1,), (3,), (2, 4)]), st.sampled_from(["float32", "bfloat16"]), st.integers(0, 99))
def test_a_product_is_that_of_the_matrix(lead, dtype, seed):
    x = jax.random.normal(jax.random.key(seed), (*lead, 24)).astype(dtype)
    w = jax.random.normal(jax.random.key(seed + 1), (24, 40)).astype(BF16)
    held = Transposed(w.T)
    y = matmul(x, held)
    chex.assert_equal_shape_suffix([y, jnp.zeros((*lead, 40))], 1)
    assert y.dtype == x.dtype and held.shape == w.shape and held.dtype == BF16
    np.testing.assert_allclose(
        np.asarray(y, np.float32),
        np.asarray(matmul(x, w), np.float32),
        rtol=1e-2 if dtype == "bfloat16" else 1e-5,
        atol=1e-5,
    )


def test_its_gradient_is_that_of_the_matrix():
    x, w = jax.random.normal(jax.random.key(0), (3, 24)), jax.random.normal(jax.random.key(1), (24, 40))
    loss = lambda x, w: jnp.sum(jnp.sin(matmul(x, w)))  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(x, Transposed(w.T)), jax.grad(loss)(x, w), rtol=1e-4, atol=1e-5)


def test_layers_stand_apart_with_transposed_matrices():
    cfg, base = narrow()
    apart = for_decoding(base, 6)
    assert isinstance(apart["layers"], tuple) and len(apart["layers"]) == cfg.layers
    for number, layer in enumerate(apart["layers"]):
        np.testing.assert_array_equal(layer["up_proj"].w_FD, base["layers"]["up_proj"][number].T)
        np.testing.assert_array_equal(layer["input_norm"], base["layers"]["input_norm"][number])
    np.testing.assert_array_equal(apart["head"].w_FD, base["head"].T)
    assert apart["embed"] is base["embed"]


def test_another_type_format_or_backend_keeps_its_stacks(monkeypatch):
    cfg, base = narrow()
    wide = tiny_base(jax.random.key(5), cfg, None)
    quantized = with_products(tiny_base(jax.random.key(5), cfg, QuantConfig(block=32)), "bfloat16")
    assert for_decoding(wide, 6) is wide and for_decoding(quantized, 6) is quantized
    assert for_decoding(base, 0) is base and for_decoding(base, MOST_ROWS + 1) is base
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert for_decoding(base, 6) is base


@pytest.mark.parametrize("changes", [{}, {"family": "opt"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hidden_states_and_caches_are_those_of_the_stacks(changes, dtype):
    cfg, base = narrow(dtype, **changes)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, cfg.vocab_size, jnp.int32)
    mask = jnp.arange(9)[None] >= jnp.array([[0], [3]])
    whole, apart = (jax.jit(lambda b: prefill(b, None, tokens, mask, cfg))(b) for b in (base, for_decoding(base, 6)))
    chex.assert_trees_all_equal_shapes_and_dtypes(whole, apart)
    errors = jax.tree.map(lambda a, b: float(np.abs(np.float32(a) - np.float32(b)).mean()), whole, apart)
    assert max(jax.tree.leaves(errors)) < {"float32": 1e-3, "bfloat16": 0.02}[dtype], errors


def test_adapters_lie_on_layers_that_stand_apart():
    cfg, base = narrow()
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
    adapters, mask = tiny_adapters(jax.random.key(2), base), jnp.ones((2, 6), bool)
    run = lambda b, a: forward(b, a, tokens, mask, cfg)  # noqa: E731
    np.testing.assert_allclose(run(for_decoding(base, 6), adapters), run(base, adapters), atol=0.02)
    assert float(jnp.abs(run(base, adapters) - run(base, None)).max()) > 0.1


def test_generates_what_the_stacks_generate():
    cfg, base = narrow()
    prompts, mask = jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool)
    program = jax.jit(
        lambda b, key: generate(
            b, None, prompts, mask, key, cfg, SamplingConfig(max_new_tokens=6), group=3, eos_ids=(0,), pad_id=0
        )
    )
    whole, apart = program(base, jax.random.key(0)), program(for_decoding(base, 6), jax.random.key(0))
    np.testing.assert_array_equal(whole.tokens_BGC, apart.tokens_BGC)
    np.testing.assert_allclose(whole.logp_BGC, apart.logp_BGC, atol=0.02)
