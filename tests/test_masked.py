"""Masked reductions, against numpy over the selected elements, and the mask behind the first EOS."""

import chex
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm import masked

VALUES = hnp.arrays(np.float32, (3, 5), elements=st.floats(-8, 8, width=32))
MASKS = hnp.arrays(bool, (3, 5))


@given(VALUES, MASKS)
def test_equal_numpy_on_the_selected_elements(x, mask):
    mask[0, 0], mask[2, :] = True, True
    chosen = x[mask]
    got = [f(jnp.asarray(x), jnp.asarray(mask)) for f in (masked.masked_sum, masked.masked_mean, masked.masked_var)]
    np.testing.assert_allclose(got, [chosen.sum(), chosen.mean(), chosen.var()], atol=1e-4, rtol=1e-5)
    bessel = masked.masked_var(jnp.asarray(x), jnp.asarray(mask), ddof=1)
    np.testing.assert_allclose(bessel, chosen.var(ddof=1), atol=1e-4, rtol=1e-5)
    rows = masked.masked_mean(jnp.asarray(x), jnp.asarray(mask), axis=-1)
    np.testing.assert_allclose(rows[2], x[2].mean(), atol=1e-5)


@pytest.mark.parametrize("reduce", [masked.masked_sum, masked.masked_mean, masked.masked_var])
def test_nothing_selected_gives_zero_and_a_finite_gradient(reduce):
    x, mask = jnp.array([[1.0, jnp.nan], [2.0, 3.0]]), jnp.array([[False, False], [True, True]])
    assert float(reduce(x, mask, axis=-1)[0]) == 0.0
    gradient = jax.grad(lambda x: jnp.sum(reduce(x, mask, axis=-1)))(x)
    np.testing.assert_array_equal(gradient[0], [0.0, 0.0])
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("reduce", [masked.masked_sum, masked.masked_mean, masked.masked_var])
def test_padding_is_never_looked_at(reduce):
    clean, mask = jnp.array([1.0, 4.0, 0.0, 0.0]), jnp.array([True, True, False, False])
    dirty = jnp.array([1.0, 4.0, jnp.nan, jnp.inf])
    np.testing.assert_array_equal(reduce(clean, mask), reduce(dirty, mask))


def test_integers_are_not_rounded():
    got = masked.masked_mean(jnp.array([0, 1]), jnp.array([True, True]))
    assert got.dtype == jnp.float32
    assert float(got) == 0.5


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        masked.masked_mean(jnp.zeros((2, 3)), jnp.ones((2, 1), bool))


@given(hnp.arrays(np.int32, (3, 6), elements=st.integers(0, 3)))
def test_completion_mask_equals_a_loop(tokens):
    want = np.zeros((3, 6), bool)
    for row, kept in zip(tokens, want):
        for t, token in enumerate(row):
            kept[t] = True
            if token in (1, 3):
                break
    np.testing.assert_array_equal(masked.completion_mask(jnp.asarray(tokens), (1, 3)), want)


def test_eos_first_and_no_eos_are_told_apart():
    got = masked.completion_mask(jnp.array([[2, 5, 5], [5, 5, 5]]), [2])
    np.testing.assert_array_equal(got, [[True, False, False], [True, True, True]])
    np.testing.assert_array_equal(masked.completion_mask(jnp.array([2, 5]), []), [True, True])
