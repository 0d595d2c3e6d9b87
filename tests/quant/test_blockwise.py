"""Blockwise quantization: equal to the peer's goldens and to its rule written in numpy, eager and compiled."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.quant.blockwise import code_of_zero, dequantize_blockwise, quantize_blockwise
from lqlm.quant.codebooks import NF4, dynamic_map, thresholds
from lqlm.quant.packing import pack, packed_size, unpack

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SIZES = (1, 63, 64, 65, 1000, 2113)


def bits(x):
    x = np.asarray(x)
    return x.view({2: np.uint16, 4: np.uint32}[x.itemsize])


def reference(x, block):
    """The peer's rule: reciprocal product in full blocks, quotient in the last partial one."""
    flat = np.asarray(x).astype(np.float32).reshape(-1)
    codes, maxima = [], []
    for start in range(0, flat.size, block):
        part = flat[start : start + block]
        top = np.abs(part).max()
        full = part.size == block
        safe = max(top, np.float32(1e-38))
        scaled = part * (np.float32(1) / safe) if full else part / safe
        codes.append(np.searchsorted((NF4[:-1] + NF4[1:]) / np.float32(2), scaled))
        maxima.append(top if full else safe)
    return np.concatenate(codes).astype(np.uint8), np.array(maxima, np.float32)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DTYPES)
def test_equals_the_peer_bit_for_bit(goldens, name, size, compiled):
    wrap = jax.jit if compiled else lambda f: f
    with np.load(goldens / "bnb.npz") as golden:
        x, packed, absmax, y = (golden[f"flat/{name}/{size}/{key}"] for key in ("x", "packed", "absmax", "y"))
    codes, ours = wrap(lambda v: quantize_blockwise(v, NF4))(jnp.asarray(x.view(DTYPES[name])))
    np.testing.assert_array_equal(pack(codes, 4, code_of_zero(NF4)), packed[:, 0])
    np.testing.assert_array_equal(bits(ours), absmax)
    back = wrap(lambda c, m: dequantize_blockwise(c, m, NF4, dtype=DTYPES[name]))(codes, ours)
    np.testing.assert_array_equal(bits(back), y)


@given(
    size=st.sampled_from([1, 31, 32, 33, 97, 256, 1023]),
    block=st.sampled_from([32, 64]),
    name=st.sampled_from(sorted(DTYPES)),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 2**31),
)
def test_equals_the_rule_compiled(size, block, name, scale, seed):
    x = (np.random.default_rng(seed).standard_normal(size) * scale).astype(DTYPES[name])
    codes, absmax = jax.jit(lambda v: quantize_blockwise(v, NF4, block))(jnp.asarray(x))
    want_codes, want_max = reference(x, block)
    np.testing.assert_array_equal(codes, want_codes)
    np.testing.assert_array_equal(bits(absmax), bits(want_max))
    back = jax.jit(lambda c, m: dequantize_blockwise(c, m, NF4, block, DTYPES[name]))(codes, absmax)
    want = (NF4[want_codes] * np.repeat(want_max, block)[:size]).astype(DTYPES[name])
    np.testing.assert_array_equal(bits(back), bits(want))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [64, 63])
def test_product_and_quotient_are_kept_apart(size, compiled):
    """Values next to a threshold, where x * (1 / a) and x / a fall on different sides."""
    rng = np.random.default_rng(0)
    middle = thresholds(NF4)
    run = (jax.jit if compiled else lambda f: f)(lambda v: quantize_blockwise(v, NF4))
    differ = 0
    for top in rng.uniform(0.5, 2, 100).astype(np.float32):
        near = (rng.choice(middle, size - 1).astype(np.float64) * top).astype(np.float32)
        x = np.append(near, top)
        want, _ = reference(x, 64)
        product = np.searchsorted(middle, x * (np.float32(1) / top))
        differ += int((product != np.searchsorted(middle, x / top)).sum())
        np.testing.assert_array_equal(run(jnp.asarray(x))[0], want)
    assert differ > 10  # else the test could not tell the two apart


def test_ties_go_to_the_lower_code():
    x = jnp.concatenate([jnp.asarray(thresholds(NF4)), jnp.ones(49)])
    codes, _ = quantize_blockwise(x, NF4)
    np.testing.assert_array_equal(codes[:15], np.arange(15))


def test_codebook_values_come_back_unchanged():
    x = jnp.tile(jnp.asarray(NF4), 4) * jnp.float32(0.37)
    codes, absmax = quantize_blockwise(x, NF4)
    np.testing.assert_array_equal(codes, np.tile(np.arange(16), 4))
    np.testing.assert_array_equal(dequantize_blockwise(codes, absmax, NF4), x)


def test_zero_blocks_are_zero():
    codes, absmax = jax.jit(lambda v: quantize_blockwise(v, NF4))(jnp.zeros(100))
    np.testing.assert_array_equal(codes, np.full(100, 7))
    np.testing.assert_array_equal(bits(absmax), bits(np.array([0, 1e-38], np.float32)))
    np.testing.assert_array_equal(bits(dequantize_blockwise(codes, absmax, NF4)), np.zeros(100))


@pytest.mark.parametrize("position", [5, 150])
def test_nan_poisons_its_whole_block_and_no_other(position):
    x = np.random.default_rng(1).standard_normal(180).astype(np.float32)
    x[position] = np.nan
    codes, absmax = jax.jit(lambda v: quantize_blockwise(v, NF4))(jnp.asarray(x))
    back = np.asarray(dequantize_blockwise(codes, absmax, NF4))
    np.testing.assert_array_equal(np.isnan(back), np.arange(180) // 64 == position // 64)


@pytest.mark.parametrize(("block", "expected"), [(32, 0.0677), (64, 0.0728), (128, 0.0768), (1024, 0.0866)])
def test_mean_error_on_normal_numbers(block, expected):
    x = jax.random.normal(jax.random.key(0), (1 << 18,))
    codes, absmax = quantize_blockwise(x, NF4, block)
    error = jnp.mean(jnp.abs(dequantize_blockwise(codes, absmax, NF4, block) - x))
    assert abs(float(error) - expected) < 3e-4


@given(st.sampled_from([1, 255, 256, 700]), st.integers(0, 2**31))
def test_eight_bits_take_the_nearest_value(size, seed):
    x = np.random.default_rng(seed).standard_normal(size).astype(np.float32) ** 3
    codes, absmax = quantize_blockwise(jnp.asarray(x), dynamic_map(), 256)
    scaled = x.astype(np.float64) / np.repeat(np.asarray(absmax), 256)[:size]
    distance = np.abs(scaled[:, None] - dynamic_map().astype(np.float64))
    taken = np.take_along_axis(distance, np.asarray(codes)[:, None].astype(int), 1)[:, 0]
    assert (taken <= distance.min(1) + 1e-7 * np.abs(scaled)).all()


@given(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0, 1, 2, 7, 32, 33]), st.integers(0, 2**31))
def test_packing_comes_back(width, size, seed):
    codes = np.random.default_rng(seed).integers(0, 2**width, (size, 3), dtype=np.uint8)
    fill = 2**width - 1
    packed = pack(jnp.asarray(codes), width, fill)
    assert packed.shape == (packed_size(size, width), 3) and packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack(packed, width, size), codes)
    if width == 4 and size % 2:
        np.testing.assert_array_equal(packed[-1] & 15, np.full(3, fill))


def test_high_nibble_comes_first():
    assert pack(jnp.array([10, 11], jnp.uint8), 4).tolist() == [0xAB]
