"""Codebooks: where their numbers come from, where codes part, and how large their errors are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lqlm.quant.blockwise import code_of_zero, dequantize_blockwise, nearest_code, quantize_blockwise
from lqlm.quant.codebooks import CODEBOOKS, FP4, INT4, NF4, bits_of, dynamic_map, in_order, normal_map, thresholds

WEIGHTS = ("nf4", "fp4", "int4", "nf3", "nf2")


def published_normal_map(bits):
    """LoftQ's NFQuantizer (and QLoRA's create_normal_map): quantiles by scipy, one more of them positive."""
    offset, count = 0.9677083, 2**bits
    above = scipy.stats.norm.ppf(np.linspace(offset, 0.5, count // 2 + 1)[:-1])
    below = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, count // 2)[:-1])
    values = np.sort(np.concatenate([above, [0.0], below]))
    return values / values.max()


@pytest.mark.parametrize(("name", "bits"), [("nf4", 4), ("nf3", 3), ("nf2", 2)])
def test_normal_maps_are_made_of_normal_quantiles(name, bits):
    found = CODEBOOKS[name]
    np.testing.assert_allclose(found, published_normal_map(bits), rtol=0, atol=2e-7)
    assert found[0] == -1 and found[-1] == 1 and found[2 ** (bits - 1) - 1] == 0 and bits_of(name) == bits


def test_normal_map_of_four_bits_is_nf4_up_to_its_published_digits():
    np.testing.assert_allclose(normal_map(4), NF4, rtol=0, atol=2e-7)


def test_fp4_has_the_peers_bits(goldens):
    with np.load(goldens / "bnb.npz") as golden:
        np.testing.assert_array_equal(FP4.view(np.uint32), golden["fp4/map"])


def test_fp4_is_a_float_of_two_exponent_bits_and_one_of_mantissa():
    for code in range(16):
        sign, exponent, mantissa = 1 - 2 * (code >> 3), (code >> 1) & 3, code & 1
        # The peer's order of exponents is its own: 01 -> 8, 10 -> 4, 11 -> 2, and 00 is zero or the smallest.
        size = {0: 0.0625 * mantissa, 1: 8, 2: 4, 3: 2}[exponent] * (1.0 if exponent == 0 else 1 + mantissa / 2)
        assert FP4[code] == np.float32(sign * size) / np.float32(12)


def test_int4_is_symmetric_and_even():
    np.testing.assert_array_equal(INT4 * np.float32(7), [*range(-7, 1), *range(8)])


def test_dynamic_map_has_the_peers_bits(goldens):
    with np.load(goldens / "bnb.npz") as golden:
        np.testing.assert_array_equal(dynamic_map().view(np.uint32), golden["dynamic_map"])


def test_dynamic_map_is_sorted_and_holds_zero():
    levels = dynamic_map()
    assert levels.shape == (256,) and levels.dtype == np.float32
    assert (np.diff(levels) > 0).all()
    assert levels[127] == 0 and levels[255] == 1
    np.testing.assert_array_equal(levels[:127], -levels[128:255][::-1])


def test_dynamic_map_without_sign_reaches_from_zero_to_one():
    levels = dynamic_map(signed=False)
    assert levels.shape == (256,) and (np.diff(levels) > 0).all() and levels[0] == 0 and levels[-1] == 1


@pytest.mark.parametrize("name", CODEBOOKS)
def test_codebooks_lie_within_one_and_hold_zero(name):
    values = CODEBOOKS[name]
    assert values.dtype == np.float32 and values.shape == (2 ** bits_of(name),)
    assert np.abs(values).max() == 1 and (values == 0).any()
    assert values[code_of_zero(values)] == 0
    assert (np.diff(values[in_order(values)]) >= 0).all()


def near(levels):
    """Values on, next to and between the thresholds."""
    middle = thresholds(np.sort(levels))
    sides = [np.nextafter(middle, np.float32(way)) for way in (-9, 9)]
    spread = np.random.default_rng(0).uniform(-1.2, 1.2, 2000).astype(np.float32)
    found = np.concatenate([middle, *sides, levels, spread, [0.0]]).astype(np.float32)
    return found[(found == 0) | (np.abs(found) > 1e-37)]  # XLA takes subnormal numbers for zero


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CODEBOOKS)
def test_codes_are_those_of_the_nearest_value(name, compiled):
    values, x = CODEBOOKS[name], near(CODEBOOKS[name])
    codes = (jax.jit if compiled else lambda f: f)(lambda x: nearest_code(x, values))(jnp.asarray(x))
    distance = np.abs(x[:, None].astype(np.float64) - values)
    taken = np.take_along_axis(distance, np.asarray(codes)[:, None].astype(int), 1)[:, 0]
    # Nearest but for the rounding of a midpoint to float32.
    assert codes.dtype == jnp.uint8 and (taken - distance.min(1) <= 1.3e-7 * np.maximum(np.abs(x), 1e-6)).all()


def bucketize(x, values):
    """The peer's rule for 4 bits, written out: how many midpoints lie strictly below."""
    order = np.argsort(values, kind="stable")
    middle = (values[order[:-1]] + values[order[1:]]) / np.float32(2)
    return order[(x[:, None] > middle).sum(1)]


@pytest.mark.parametrize("name", WEIGHTS)
def test_ties_go_to_the_lower_value(name):
    x = near(CODEBOOKS[name])
    np.testing.assert_array_equal(nearest_code(jnp.asarray(x), CODEBOOKS[name]), bucketize(x, CODEBOOKS[name]))


def binary_search(x, code):
    """The peer's rule for 8 bits on CUDA (dQuantize of its kernels), step by step."""
    pivot, upper_pivot, lower_pivot, lower, upper = 127, 255, 0, np.float32(-1), np.float32(1)
    for step in (64, 32, 16, 8, 4, 2, 1):
        if x > code[pivot]:
            lower_pivot, lower, pivot = pivot, code[pivot], pivot + step
        else:
            upper_pivot, upper, pivot = pivot, code[pivot], pivot - step
    if upper_pivot == 255:
        upper = code[255]
    if lower_pivot == 0:
        lower = code[0]
    if x > code[pivot]:
        return upper_pivot if x > (upper + code[pivot]) * np.float32(0.5) else pivot
    return lower_pivot if x < (lower + code[pivot]) * np.float32(0.5) else pivot


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_are_those_of_the_peers_search_on_cuda(signed):
    levels = dynamic_map(signed)
    x = np.clip(near(levels), -1, 1)
    np.testing.assert_array_equal(nearest_code(jnp.asarray(x), levels), [binary_search(v, levels) for v in x])


NORMAL = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
ERRORS = {("nf4", 32): 0.0677, ("nf4", 64): 0.0728, ("nf4", 128): 0.0768, ("nf4", 1024): 0.0866, ("nf4", 4096): 0.0925}


@pytest.mark.parametrize(("name", "block", "expected"), [(*k, e) for k, e in ERRORS.items()] + [
    ("fp4", 64, 0.0965), ("int4", 64, 0.0913),
])  # fmt: skip
def test_mean_error_on_normal_numbers(name, block, expected):
    """As measured elsewhere for these formats."""
    values = CODEBOOKS[name]
    codes, absmax = jax.jit(lambda x: quantize_blockwise(x, values, block))(jnp.asarray(NORMAL))
    back = np.asarray(jax.jit(lambda c, m: dequantize_blockwise(c, m, values, block))(codes, absmax))
    assert abs(np.abs(back - NORMAL).mean() - expected) < 3e-4  # of a million numbers


def test_more_bits_err_less():
    errors = []
    for name in ("nf2", "nf3", "nf4", "dynamic8"):
        codes, absmax = quantize_blockwise(jnp.asarray(NORMAL[: 1 << 16]), CODEBOOKS[name])
        back = dequantize_blockwise(codes, absmax, CODEBOOKS[name])
        errors.append(float(jnp.mean(jnp.abs(back - NORMAL[: 1 << 16]))))
    assert errors[0] > 2 * errors[1] - 0.1 > errors[1] > 1.8 * errors[2] > 1.8 * 5 * errors[3], errors
