"""The 4-bit matmul: equal to the dense one, keeping only codes, one layer dequantized at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.quant import QuantConfig, dequantize, matmul, quantize

SHAPES = {"rows": (128, 48), "flat": (40, 30)}
CONFIGS = {"single": QuantConfig(double=False), "double": QuantConfig()}


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def loss(x, w):
    return jnp.sum(jnp.sin(matmul(x, w).astype(jnp.float32)))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_value_and_gradient_equal_the_dense_matmul(layout, kind, lead):
    q = quantize(normal(SHAPES[layout]), CONFIGS[kind])
    x = normal((*lead, SHAPES[layout][0]), 1)
    value, grad = jax.jit(jax.value_and_grad(loss))(x, q)
    want_value, want_grad = jax.value_and_grad(loss)(x, dequantize(q))
    np.testing.assert_allclose(value, want_value, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-5)


def test_computes_in_the_dtype_of_x_with_float32_sums():
    q = quantize(normal((128, 48)))
    x = normal((4, 128), 1).astype(jnp.bfloat16)
    y = matmul(x, q)
    assert y.dtype == jnp.bfloat16 and jax.grad(loss)(x, q).dtype == jnp.bfloat16
    want = np.asarray(x, np.float64) @ np.asarray(dequantize(q, jnp.bfloat16), np.float64)
    # One rounding to bfloat16 of an exact sum; sums kept in bfloat16 would be ten times worse.
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=2**-8, atol=1e-3)


def test_asks_for_float32_sums_whatever_the_platform():
    x, w = jnp.ones((4, 64), jnp.bfloat16), jnp.ones((64, 8), jnp.bfloat16)
    for weight in (w, quantize(w)):
        text = str(jax.make_jaxpr(lambda x, w=weight: jax.vjp(lambda x: matmul(x, w), x)[1](matmul(x, w)))(x))
        dots = text.count("dot_general[")
        assert dots >= 2 and text.count("preferred_element_type=float32") == dots


def test_dense_weight_of_another_dtype_is_cast_and_trained():
    x, w = normal((4, 16)), normal((16, 8), 1).astype(jnp.bfloat16)
    assert matmul(x, w).dtype == jnp.float32
    grad = jax.grad(loss, argnums=1)(x, w)
    assert grad.dtype == jnp.bfloat16 and float(jnp.abs(grad).sum()) > 0


@pytest.mark.parametrize("layout", SHAPES)
def test_keeps_codes_and_no_dequantized_weight(layout):
    shape = SHAPES[layout]
    q = quantize(normal(shape))
    _, pull = jax.vjp(lambda x: matmul(x, q), normal((7, shape[0]), 1))
    kept = jax.tree.leaves(pull)
    assert any(leaf.dtype == jnp.uint8 and leaf.size == shape[0] * shape[1] // 2 for leaf in kept)
    assert all(leaf.size < shape[0] * shape[1] // 4 for leaf in kept if leaf.dtype != jnp.uint8)


def test_the_weight_gets_no_gradient():
    q, x = quantize(normal((64, 8))), normal((3, 64), 1)
    grads = jax.grad(loss, argnums=1, allow_int=True)(x, q)
    assert grads.codes.dtype == jax.dtypes.float0
    assert not np.asarray(grads.maxima.offset).any()


@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_over_a_stack_and_over_a_batch(kind):
    q = quantize(normal((3, 64, 8)), CONFIGS[kind])
    x = normal((3, 5, 64), 1)
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], q) for i in range(3)]
    both = jax.vmap(jax.grad(loss))(x, q)
    shared = jax.vmap(jax.grad(loss), in_axes=(0, None))(x, layers[0])
    for i in range(3):
        np.testing.assert_allclose(both[i], jax.grad(loss)(x[i], layers[i]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(shared[i], jax.grad(loss)(x[i], layers[0]), rtol=1e-4, atol=1e-5)


def test_a_shared_weight_is_dequantized_once_for_a_batch():
    q = jax.eval_shape(quantize, jax.ShapeDtypeStruct((256, 256), jnp.float32))
    x = jax.ShapeDtypeStruct((16, 4, 256), jnp.float32)
    held = temporaries(jax.vmap(jax.grad(loss), in_axes=(0, None)), x, q)
    assert held < 4 * 256 * 256 * 4


def layer(x, w):
    return jnp.tanh(matmul(x, w)), None


def through_layers(x, stack):
    """A scan over checkpointed layers, as the models run."""
    return jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, stack)[0])


def test_scan_over_checkpointed_layers_equals_the_loop():
    q = quantize(normal((4, 64, 64)) * 0.1)
    x = normal((5, 64), 1)

    def loop(x):
        for w in dequantize(q):
            x, _ = layer(x, w)
        return jnp.sum(x)

    value, grad = jax.jit(jax.value_and_grad(through_layers))(x, q)
    want_value, want_grad = jax.value_and_grad(loop)(x)
    np.testing.assert_allclose(value, want_value, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-5)


def temporaries(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


LAYERS, WIDTH = 16, 256
DENSE_LAYER = WIDTH * WIDTH * 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_training_holds_one_dequantized_layer_at_a_time(dtype):
    q = quantize(normal((LAYERS, WIDTH, WIDTH)))
    x = normal((8, WIDTH), 1).astype(dtype)
    held = temporaries(jax.value_and_grad(lambda x, q: through_layers(x, q).astype(jnp.float32)), x, q)
    # The running layer (its weight and that in float32) and the slices of codes, little else.
    assert held < 4 * DENSE_LAYER

    def careless(x, q):
        """What plain autodiff of a dequantization keeps."""
        step = lambda x, w: (jnp.tanh(x @ dequantize(w, x.dtype)), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, x, q)[0]).astype(jnp.float32)

    assert temporaries(jax.value_and_grad(careless), x, q) > LAYERS * WIDTH * WIDTH * x.dtype.itemsize


def test_decoding_holds_one_dequantized_layer_at_a_time():
    """XLA may not lift the dequantization out of the loop over tokens."""
    q = quantize(normal((LAYERS, WIDTH, WIDTH)))

    def decode(x, q):
        step = lambda state: (state[0] + 1, jax.lax.scan(layer, state[1], q)[0])  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0] < 5, step, (0, x))

    x = normal((8, WIDTH), 1)
    assert temporaries(decode, x, q) < 3 * DENSE_LAYER
    assert temporaries(lambda x, q: decode(x, dequantize(q)), x, q) > LAYERS * DENSE_LAYER
