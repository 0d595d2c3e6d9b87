"""Double quantization: nearest codes, exact zero, and a sum that the compiler does not fuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.quant.codebooks import dynamic_map
from lqlm.quant.double import double_quantize, undo_double


def maxima(size, seed=0):
    return np.random.default_rng(seed).gamma(20.0, 0.1, size).astype(np.float32)


@given(st.sampled_from([1, 2, 255, 256, 257, 1000]), st.integers(0, 2**31))
def test_takes_the_exactly_nearest_code(size, seed):
    x = maxima(size, seed)
    packed = jax.jit(double_quantize)(jnp.asarray(x))
    rest = x - np.asarray(packed.offset)
    blocks = np.pad(rest, (0, -size % 256)).reshape(-1, 256)
    tops = np.abs(blocks).max(1)
    np.testing.assert_array_equal(packed.absmax, tops)
    scaled = (blocks * (np.float32(1) / np.where(tops == 0, np.float32(1), tops))[:, None]).reshape(-1)[:size]
    distance = np.abs(scaled[:, None].astype(np.float64) - dynamic_map())
    taken = np.take_along_axis(distance, np.asarray(packed.codes)[:, None].astype(int), 1)[:, 0]
    # A half ulp of slack: the midpoints are rounded to float32, here as on CUDA.
    assert (taken - distance.min(1) <= 6e-8).all()


def test_product_and_sum_are_rounded_separately():
    packed = double_quantize(jnp.asarray(maxima(5000)))
    values, tops = dynamic_map()[np.asarray(packed.codes)], np.repeat(np.asarray(packed.absmax), 256)[:5000]
    offset = np.asarray(packed.offset)
    want = values * tops + offset
    for undo in (undo_double, jax.jit(undo_double)):
        np.testing.assert_array_equal(undo(packed), want)
    fused = (values.astype(np.float64) * tops + offset.astype(np.float64)).astype(np.float32)
    assert (fused != want).any()  # else the test could not tell the two apart


@pytest.mark.parametrize("size", [1, 64, 300])
def test_equal_maxima_are_the_zero_code(size):
    packed = double_quantize(jnp.full(size, 0.75))
    np.testing.assert_array_equal(packed.codes, np.full(size, 127))
    np.testing.assert_array_equal(undo_double(packed), np.full(size, 0.75, np.float32))


@pytest.mark.parametrize("size", [257, 1000])
def test_the_mean_subtracted_is_the_mean_stored(size):
    x = maxima(size)
    packed = jax.jit(double_quantize)(jnp.asarray(x))
    rest = np.pad(x - np.asarray(packed.offset), (0, -size % 256)).reshape(-1, 256)
    np.testing.assert_array_equal(packed.absmax, np.abs(rest).max(1))


def test_error_is_below_a_percent():
    x = np.abs(np.random.default_rng(0).standard_normal((4096, 64))).max(1).astype(np.float32)
    back = undo_double(double_quantize(jnp.asarray(x)))
    assert float(np.max(np.abs(back - x) / x)) < 0.01


def test_mean_of_many_maxima_keeps_its_digits():
    x = maxima(1 << 20)
    offset = float(double_quantize(jnp.asarray(x)).offset)
    assert abs(offset / x.astype(np.float64).mean() - 1) < 3e-7


def test_nan_reaches_every_number():
    x = maxima(300)
    x[3] = np.nan
    assert np.isnan(undo_double(double_quantize(jnp.asarray(x)))).all()
