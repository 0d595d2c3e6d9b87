"""Bits where they matter: the allocation against all choices, sizes and errors against the arrays themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.quant.budget import GAP, allocate, format_bytes, format_errors, in_formats, label
from lqlm.quant.mixed import MixedStack, dense, unstack
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from lqlm.trees import tree_bytes

FORMATS = (QuantConfig("nf2", 32), QuantConfig("nf3", 96), QuantConfig(), QuantConfig("dynamic8", 32, False), None)
SHAPE = (3, 64, 24)


def best(sizes, errors, budget):
    """The least error of all K ** M choices within the budget."""
    count, options = sizes.shape
    found = (
        sum(errors[m, k] for m, k in enumerate(choice))
        for choice in itertools.product(range(options), repeat=count)
        if sum(sizes[m, k] for m, k in enumerate(choice)) <= budget
    )
    return min(found, default=None)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([1, 64, 10**7]))
def test_no_choice_is_better(count, options, seed, share, unit):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, (count, options)) * unit
    errors = rng.exponential(size=(count, options)) ** 4
    least, most = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    budget = int(least + share * (most - least))
    chosen = allocate(sizes, errors, budget)
    assert chosen.shape == (count,)
    assert sum(sizes[m, k] for m, k in enumerate(chosen)) <= budget
    taken = sum(errors[m, k] for m, k in enumerate(chosen))
    assert taken <= best(sizes, errors, budget) * (1 + GAP) + 1e-9


def test_a_large_problem_is_near_its_relaxation_and_repeats():
    rng = np.random.default_rng(0)
    bits = np.array([2.2, 3.1, 4.1, 8.1, 16.0])
    sizes = (rng.choice([2**18, 2**20, 3 * 2**20], (200, 1)) * bits).astype(np.int64)
    errors = rng.lognormal(0, 3, (200, 1)) * 4.0**-bits
    budget = int(sizes[:, 2].sum())
    chosen = allocate(sizes, errors, budget)
    taken = np.take_along_axis(errors, chosen[:, None], 1).sum()
    assert np.take_along_axis(sizes, chosen[:, None], 1).sum() <= budget
    # For any price of a byte, sum_m min_k (e + price * s) - price * budget is a lower bound.
    prices = np.geomspace(1e-16, 1e-4, 400)
    bound = max((errors + p * sizes).min(axis=1).sum() - p * budget for p in prices)
    assert bound <= taken * (1 + 1e-9) and taken < 1.01 * bound
    assert taken < 0.2 * errors[:, 2].sum()  # what uniform bits would cost
    np.testing.assert_array_equal(chosen, allocate(sizes, errors, budget))


def test_a_larger_budget_is_never_worse():
    rng = np.random.default_rng(1)
    sizes, errors = np.array([[10, 20, 40]] * 6), -np.sort(-rng.exponential(size=(6, 3)), axis=1)
    totals = [errors[np.arange(6), allocate(sizes, errors, b)].sum() for b in range(60, 250, 10)]
    assert all(a >= b * (1 - GAP) for a, b in itertools.pairwise(totals))
    assert totals[-1] == errors.min(axis=1).sum()


def test_a_budget_that_cannot_be_met_says_the_least():
    sizes = np.array([[10, 20], [30, 5]])
    assert allocate(sizes, np.ones((2, 2)), 15).tolist() == [0, 1]
    with pytest.raises(UserError, match="budget of 14 bytes cannot be met: the smallest formats take 15") as caught:
        allocate(sizes, np.ones((2, 2)), 14)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="finite"):
        allocate(sizes, np.array([[1.0, np.nan], [0.0, 0.0]]), 100)


@pytest.mark.parametrize("fmt", FORMATS, ids=label)
def test_bytes_are_those_of_the_arrays(fmt):
    w = jax.random.normal(jax.random.key(0), SHAPE)
    held = in_formats(w, [fmt] * 3, jnp.float32)
    assert isinstance(held, QTensor) == (fmt is not None)
    assert tree_bytes(held) == 3 * format_bytes(SHAPE[1:], fmt)


@pytest.mark.parametrize("fmt", FORMATS, ids=label)
def test_errors_are_weighted_squares(fmt):
    keys = jax.random.split(jax.random.key(1), 3)
    w = jax.random.normal(keys[0], SHAPE)
    a, g = jax.random.uniform(keys[1], SHAPE[:2]), jax.random.uniform(keys[2], (SHAPE[0], SHAPE[2]))
    back = w.astype(jnp.bfloat16) if fmt is None else dequantize(quantize(w, fmt))
    off = np.square(np.asarray(back, np.float64) - np.asarray(w, np.float64))
    plain, by_input = off.sum(axis=(1, 2)), np.einsum("lio,li->l", off, a)
    both = np.einsum("lio,li,lo->l", off, a, g)
    np.testing.assert_allclose(format_errors(w, fmt), plain, rtol=1e-5)
    np.testing.assert_allclose(format_errors(w, fmt, a), by_input, rtol=1e-5)
    np.testing.assert_allclose(format_errors(w, fmt, a, g), both, rtol=1e-5)


def test_more_bits_err_less():
    w = jax.random.normal(jax.random.key(2), (1, 64, 64))
    errors = [float(format_errors(w, QuantConfig(name))[0]) for name in ("nf2", "nf3", "nf4", "dynamic8")]
    assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[-1]


def test_layers_keep_their_formats_and_their_order():
    w = jax.random.normal(jax.random.key(3), (4, 64, 8))
    formats = [None, QuantConfig(), None, QuantConfig("nf2", 32)]
    held = in_formats(w, formats, jnp.float32)
    assert isinstance(held, MixedStack) and held.kinds == (0, 1, 0, 2)
    assert dense(held).dtype == jnp.float32  # the 16 bits of the first layer do not round the others
    for one, fmt, part, alone in zip(w, formats, unstack(held), dense(held, jnp.float32)):
        expected = one.astype(jnp.bfloat16).astype(jnp.float32) if fmt is None else dequantize(quantize(one, fmt))
        assert (part.dtype == jnp.bfloat16) if fmt is None else (part.config == fmt)
        np.testing.assert_array_equal(alone, expected)
