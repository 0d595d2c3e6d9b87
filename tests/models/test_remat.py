"""The scan that recomputes layers, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.remat import remat_scan
from lqlm.models.transformer import forward
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

LAYERS, WIDTH = 5, 6


def problem(dtype):
    rng = np.random.default_rng(0)
    w, bias, shared = (jnp.asarray(rng.normal(size=s) * 0.5, dtype) for s in ((LAYERS, 6, 6), (LAYERS, 6), (3, 6)))
    return jnp.asarray(rng.normal(size=(3, 6)), dtype), {"w": w, "bias": bias}, jnp.arange(LAYERS), shared


def layer(shared):
    def body(x, trained, index):
        gain = jnp.where(index % 2 == 0, 1, 2).astype(x.dtype)
        return jnp.tanh(gain * x @ trained["w"] + trained["bias"][None] + shared)

    return body


def loss(scan):
    def run(x, trained, index, shared):
        return jnp.sum(jnp.sin(scan(layer(shared), x, trained, index).astype(jnp.float32)))

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 3)))


def plain(body, x, trained, frozen):
    return jax.lax.scan(lambda x, s: (body(x, *s), None), x, (trained, frozen))[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_value_and_gradients_equal_the_plain_scan(dtype):
    found, want = loss(remat_scan)(*problem(dtype)), loss(plain)(*problem(dtype))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (a, b)), atol=tolerance),
        found,
        want,
    )
    assert [x.dtype for x in jax.tree.leaves(found[1])] == [dtype] * 4
    assert all(np.abs(np.asarray(x, np.float32)).max() > 0.1 for x in jax.tree.leaves(found[1]))


def test_gradient_of_a_jitted_function_and_inside_a_scan():
    """Arrays that the layer closes over may be tracers of either."""
    x, trained, index, shared = problem(jnp.float32)
    run = lambda scan: lambda x, shared: jnp.sum(scan(layer(shared + 0.0), x, trained, index))  # noqa: E731
    found = jax.grad(jax.jit(run(remat_scan)), argnums=1)(x, shared)
    want = jax.grad(jax.jit(run(plain)), argnums=1)(x, shared)
    np.testing.assert_allclose(found, want, atol=1e-5)
    each = lambda scan: jax.lax.map(lambda x: jax.grad(run(scan), argnums=1)(x, shared), jnp.stack([x, 2 * x]))  # noqa: E731
    np.testing.assert_allclose(each(remat_scan), each(plain), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_keeps_the_inputs_of_the_layers_and_nothing_else(dtype):
    x, trained, index, shared = problem(dtype)
    _, pull = jax.vjp(lambda trained: remat_scan(layer(shared), x, trained, index), trained)
    stacked = [a for a in jax.tree.leaves(pull) if a.shape == (LAYERS, *x.shape)]
    assert [a.dtype.itemsize for a in stacked] == [x.dtype.itemsize]
    assert all(a.size <= trained["w"].size for a in jax.tree.leaves(pull))


CFG = tiny_config("qwen2")
TOKENS, MASK = pad(ragged(0, (3, 5), CFG.vocab_size), 5, "left")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_model_trains_the_same_with_and_without(dropout):
    """Same dropout in both, gradients to adapters and, where somebody asks, to norms and biases of a 4-bit base."""
    base = tiny_base(jax.random.key(0), CFG, QuantConfig())
    adapters = tiny_adapters(jax.random.key(1), base, dropout=dropout)
    norms = {name: base["layers"][name] for name in ("input_norm", "q_bias")}

    def run(adapters, norms, remat):
        changed = {**base, "layers": {**base["layers"], **norms}}
        hidden = forward(changed, adapters, TOKENS, MASK, CFG, dropout_key=jax.random.key(2), remat=remat)
        return jnp.sum(jnp.where(MASK[..., None], jnp.sin(hidden), 0.0))

    grad = jax.jit(jax.grad(run, argnums=(0, 1)), static_argnums=2)
    found, want = grad(adapters, norms, "full"), grad(adapters, norms, "none")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, want)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found))


def test_stacks_of_bfloat16_are_not_widened():
    """XLA on the CPU would hold inputs, adapters and gradients of all layers in float32 (jax 0.10; no more in 0.12)."""
    layers, width = 64, 64
    x = jax.ShapeDtypeStruct((8, width), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((layers, width, width), jnp.bfloat16)
    total = lambda scan: lambda x, w: jnp.sum(scan(lambda x, w, _: jnp.tanh(x @ w), x, w, None).astype(jnp.float32))  # noqa: E731
    held = [
        jax.jit(jax.grad(total(scan), argnums=1)).lower(x, w).compile().memory_analysis().temp_size_in_bytes
        for scan in (remat_scan, plain)
    ]
    stack = 2 * layers * width * width
    assert held[0] < 2 * stack
    assert held[1] > 2 * stack or jax.__version_info__ >= (0, 11)  # what it is there for
