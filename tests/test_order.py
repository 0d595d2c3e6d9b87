"""A dependency that changes no bit and that XLA does not see through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.order import after, never
from lqlm.quant import dequantize, quantize

VALUES = [0.0, -1.0, 3e38, float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_changes_nothing_whatever_the_value(value, dtype):
    tree = {"codes": jnp.arange(7, dtype=jnp.uint8), "x": jnp.array([1.5, -0.0, jnp.nan])}
    gate = jnp.full((2, 3), value, dtype)
    for call in (after, jax.jit(after)):
        jax.tree.map(np.testing.assert_array_equal, call(tree, gate), tree)
    assert not never(gate) and not jax.jit(never)(gate)


def test_an_empty_or_scalar_value_is_no_obstacle():
    np.testing.assert_array_equal(after(jnp.arange(3), jnp.zeros((0, 4))), jnp.arange(3))
    np.testing.assert_array_equal(after(jnp.arange(3), jnp.float32(1)), jnp.arange(3))


def test_gradients_pass_through_the_tree_and_not_through_the_value():
    x, value = jnp.array([1.0, 2.0]), jnp.array([3.0])
    grads = jax.jit(jax.grad(lambda x, value: jnp.sum(after(x, value) ** 2), argnums=(0, 1)))(x, value)
    np.testing.assert_array_equal(grads[0], 2 * x)
    np.testing.assert_array_equal(grads[1], 0.0)


COUNT, SIZE = 12, 256


def chain(order):
    def run(x, weights):
        for w in weights:
            x = jnp.tanh(x @ dequantize(order(w, x)))
        return x

    weights = [jax.eval_shape(quantize, jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32))] * COUNT
    compiled = jax.jit(run).lower(jax.ShapeDtypeStruct((4, SIZE), jnp.float32), weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * SIZE * SIZE)


def test_weights_are_dequantized_one_after_the_other():
    free, ordered = chain(lambda w, x: w), chain(lambda w, x: w.replace(codes=after(w.codes, x)))
    assert free > 6 and ordered < 3


def test_on_an_accelerator_it_is_a_barrier():
    traced = jax.jit(after).trace(jnp.arange(3), jnp.ones(2))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "optimization_barrier" in text and "select" not in text
    assert "select" in traced.lower(lowering_platforms=("cpu",)).as_text()
