"""The fused 4-bit matmul: interpreted on the CPU it equals dequantize-then-matmul, and it lowers for CUDA."""

import contextlib
import functools
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.quant import QuantConfig, dequantize, matmul, quantize
from lqlm.quant.kernels import MOST_ROWS, Tiles, fused_matmul, fused_transposed, fusible, tiles_for
from lqlm.quant.kernels.tiles import power_of_two_in, splits_for

module = sys.modules["lqlm.quant.matmul"]  # the package has a function of that name
forward = jax.jit(functools.partial(fused_matmul, interpret=True), static_argnames="tiles")
transposed = jax.jit(functools.partial(fused_transposed, interpret=True), static_argnames="tiles")
ROUNDING = {"float32": 2e-6, "bfloat16": 2**-8, "float16": 2**-10}


def normal(shape, seed=0, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def matrix(fan_in, fan_out, config, seed=0):
    return quantize(normal((fan_in, fan_out), seed), config)


def check(got, x, w):
    """Equal to the exact product of these very weights, but for float32 sums and one rounding."""
    assert got.dtype == x.dtype
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    want, size = x @ w, np.abs(x) @ np.abs(w)
    error = np.abs(np.asarray(got, np.float64) - want)
    assert (error <= ROUNDING[got.dtype.name] * np.abs(want) + 2e-6 * size).all(), (error / size).max()


def check_both(rows, q, dtype, tiles=None):
    w = dequantize(q, jnp.dtype(dtype))
    x, dy = normal((rows, q.shape[0]), 1, dtype), normal((rows, q.shape[1]), 2, dtype)
    check(forward(x, q, tiles), x, w)
    check(transposed(dy, q, tiles), dy, w.T)


SMALL = Tiles(rows=16, outs=32, depth=32, programs=6)


@settings(max_examples=3)
@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 100),
    st.sampled_from(["nf4", "fp4", "int4"]),
    st.sampled_from([32, 64, 96, 128]),
    st.booleans(),
    st.sampled_from(list(ROUNDING)),
)
def test_equals_dequantize_then_matmul(rows, blocks, outs, codebook, block, double, dtype):
    check_both(rows, matrix(block * blocks, outs, QuantConfig(codebook, block, double, 16)), dtype)


@pytest.mark.parametrize(
    ("rows", "fan_in", "outs", "config", "dtype"),
    [
        (1, 320, 256, QuantConfig(), "bfloat16"),  # a token
        (3, 128, 70, QuantConfig("fp4", 128, False), "float32"),  # rows and columns that fill no tile
        (33, 192, 48, QuantConfig("int4", 64, True, 3), "bfloat16"),  # several tiles of rows
    ],
)
def test_equals_it_in_each_regime(rows, fan_in, outs, config, dtype):
    check_both(rows, matrix(fan_in, outs, config), dtype, None if rows < 16 else SMALL)


def test_a_sum_split_into_parts_of_unequal_length():
    q = matrix(7 * 32, 16, QuantConfig(block=32))
    assert splits_for(1, 7, 5) == 5  # two steps each: the last part has none
    x = normal((2, 7 * 32), 1)
    check(forward(x, q, Tiles(rows=2, outs=16, depth=32, programs=5)), x, dequantize(q))


def test_maxima_in_8_bits_are_restored_bit_for_bit():
    """One row of ones per input picks the weight itself: no sum hides a last bit."""
    q = matrix(64, 32, QuantConfig(double_block=5))
    got = forward(jnp.eye(64), q, Tiles(rows=16, outs=32, depth=64))
    np.testing.assert_array_equal(got, dequantize(q))


def test_leading_axes_are_rows():
    q, x = matrix(64, 16, QuantConfig()), normal((2, 3, 64), 1)
    y = forward(x, q)
    assert y.shape == (2, 3, 16)
    check(y.reshape(6, 16), x.reshape(6, 64), dequantize(q))


def test_reads_only_what_it_can():
    assert fusible(matrix(64, 8, QuantConfig()))
    assert not fusible(matrix(40, 8, QuantConfig()))  # flat
    assert not fusible(matrix(64, 8, QuantConfig("nf3")))
    assert not fusible(quantize(normal((2, 64, 8))))  # a stack
    shifted = matrix(64, 8, QuantConfig(double=False)).replace(shift=jnp.zeros((1, 8)))
    assert not fusible(shifted)


def test_tiles_are_powers_of_two():
    with pytest.raises(ValueError, match="rows is 3"):
        Tiles(rows=3)
    assert all(tiles_for(rows).rows >= min(rows, MOST_ROWS) for rows in range(1, 200))
    assert [power_of_two_in(n, 128) for n in (4096, 576, 11008, 48)] == [128, 64, 128, 16]


def target():
    """A GPU to lower for; newer versions of jax want to know which."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


def lowered(f, *args):
    with target(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jax 0.12 announces the end of its Triton backend
        return jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


CALL = "__gpu$xla.gpu.triton"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_lowers_for_cuda(rows, dtype):
    q = jax.eval_shape(quantize, jax.ShapeDtypeStruct((4096, 11008), jnp.float32))
    for f, width in ((fused_matmul, 4096), (fused_transposed, 11008)):
        assert lowered(f, jax.ShapeDtypeStruct((rows, width), dtype), q).count(CALL) == 1


def loss(x, w):
    return jnp.sum(jnp.sin(matmul(x, w)))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The choice that a process with one GPU makes."""
    monkeypatch.setattr(module, "_kernels_here", lambda: True)


def test_chosen_by_size_and_format_on_a_gpu_only(on_a_gpu):
    q, flat = matrix(128, 16, QuantConfig()), matrix(40, 16, QuantConfig())
    few, many = jnp.ones((MOST_ROWS, 128)), jnp.ones((MOST_ROWS + 1, 128))
    both = jax.value_and_grad(loss)
    assert lowered(both, few, q).count(CALL) == 2  # and one in the backward pass
    assert CALL not in lowered(both, many, q) and CALL not in lowered(both, jnp.ones((1, 40)), flat)
    assert "triton" not in jax.jit(both).lower(few, q).as_text()


def test_this_process_has_no_kernels():
    assert CALL not in lowered(loss, jnp.ones((1, 64)), matrix(64, 16, QuantConfig()))


def test_another_platform_computes_what_it_did(on_a_gpu, monkeypatch):
    q, x = matrix(128, 48, QuantConfig()), normal((3, 128), 1)
    got = jax.jit(jax.value_and_grad(loss))(x, q)
    monkeypatch.setattr(module, "_kernels_here", lambda: False)
    jax.tree.map(np.testing.assert_array_equal, got, jax.jit(jax.value_and_grad(loss))(x, q))


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels in place of the dequantized product, on the CPU."""
    fused = [functools.partial(lambda f, w, x: f(x, w, interpret=True), f) for f in (fused_matmul, fused_transposed)]
    monkeypatch.setattr(module, "_dequantized", lambda w, x, axis: fused[axis](w, x))


def test_gradient_equals_the_dense_one(interpreted):
    q, x = matrix(128, 48, QuantConfig()), normal((5, 128), 1)
    np.testing.assert_allclose(jax.jit(matmul)(x, q), x @ dequantize(q), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x, q), jax.grad(loss)(x, dequantize(q)), rtol=1e-4, atol=1e-4)


def test_mapped_inputs_are_rows_and_mapped_weights_are_dequantized(on_a_gpu):
    q = quantize(normal((3, 64, 16)))
    one = jax.tree.map(lambda leaf: leaf[0], q)
    x = normal((3, 5, 64), 1)
    shared, own = jax.vmap(loss, in_axes=(0, None)), jax.vmap(loss)
    assert lowered(shared, x, one).count(CALL) == 1 and CALL not in lowered(own, x, q)
    np.testing.assert_allclose(own(x, q)[0], shared(x, one)[0], rtol=1e-6)


def test_serves_inside_the_loop_over_tokens(on_a_gpu):
    q = quantize(normal((3, 64, 64)) * 0.1)

    def decode(x, q):
        layer = lambda x, w: (jnp.tanh(matmul(x, w)), None)  # noqa: E731
        step = lambda state: (state[0] + 1, jax.lax.scan(layer, state[1], q)[0])  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0] < 5, step, (0, x))[1]

    text = lowered(decode, normal((2, 64)), q)
    # The loops are there, and no weight is dequantized beside the kernel.
    assert text.count(CALL) == 1 and "tensor<64x64xf32>" not in text
