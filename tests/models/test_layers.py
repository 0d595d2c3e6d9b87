"""Norm, rotary positions and attention against formulas written out in numpy."""

import cmath
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.attention import attention, prefix_attention
from lqlm.models.config import RopeScaling
from lqlm.models.layers import rms_norm, rope_frequencies, rope_tables, rotate, swiglu, unit_rms
from tests.tiny import tiny_config

LLAMA3 = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=512)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rms_norm_is_the_formula():
    x, scale = normal(0, 2, 3, 8), normal(1, 8)
    x[0, 0] = 1e-4  # where epsilon is all that counts
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(rms_norm(jnp.asarray(x), jnp.asarray(scale), 1e-5), want, rtol=1e-5, atol=1e-7)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(normal(0, 64) * 300).astype(jnp.bfloat16)
    y = rms_norm(x, jnp.ones(64, jnp.bfloat16), 1e-5)
    wide = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), wide / np.sqrt((wide**2).mean()), rtol=2**-8)


def plain_frequencies(theta, head_dim):
    return [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_theta_is_used(theta):
    cfg = tiny_config(rope_theta=theta, head_dim=16)
    np.testing.assert_allclose(rope_frequencies(cfg), plain_frequencies(theta, 16), rtol=1e-5)


def test_linear_scaling_divides_every_frequency():
    cfg = tiny_config(rope_theta=10000.0, head_dim=16, rope_scaling=RopeScaling("linear", 2.5))
    np.testing.assert_allclose(rope_frequencies(cfg), np.array(plain_frequencies(10000.0, 16)) / 2.5, rtol=1e-5)


def llama3_frequency(freq, scaling):
    """Meta's reference, one frequency at a time."""
    wavelength = 2 * math.pi / freq
    if wavelength < scaling.original_max_positions / scaling.high_freq_factor:
        return freq, "kept"
    if wavelength > scaling.original_max_positions / scaling.low_freq_factor:
        return freq / scaling.factor, "divided"
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_max_positions / wavelength - low) / (high - low)
    return (1 - smooth) * freq / scaling.factor + smooth * freq, "blended"


def test_llama3_scaling():
    cfg = tiny_config(rope_theta=10000.0, head_dim=32, rope_scaling=LLAMA3)
    want, kinds = zip(*[llama3_frequency(freq, LLAMA3) for freq in plain_frequencies(10000.0, 32)])
    assert set(kinds) == {"kept", "divided", "blended"}
    np.testing.assert_allclose(rope_frequencies(cfg), want, rtol=1e-5)


def test_rotate_turns_pairs_as_complex_numbers():
    cfg = tiny_config(head_dim=6, rope_theta=50.0)
    x, positions = normal(0, 1, 4, 2, 6), jnp.array([[0, 1, 7, 30]], jnp.int32)
    found = np.asarray(rotate(jnp.asarray(x), rope_tables(positions, cfg)))
    freq = plain_frequencies(50.0, 6)
    for t, position in enumerate([0, 1, 7, 30]):
        for head in range(2):
            for i in range(3):
                turned = complex(x[0, t, head, i], x[0, t, head, i + 3]) * cmath.exp(1j * position * freq[i])
                got = complex(found[0, t, head, i], found[0, t, head, i + 3])
                assert abs(got - turned) < 1e-4


def test_rotated_products_see_only_the_distance():
    cfg = tiny_config(head_dim=8)
    q, k = jnp.asarray(normal(0, 1, 1, 1, 8)), jnp.asarray(normal(1, 1, 1, 1, 8))

    def product(m, n):
        turned = [rotate(x, rope_tables(jnp.array([[p]], jnp.int32), cfg)) for x, p in ((q, m), (k, n))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(5, 2) == pytest.approx(product(40, 37), abs=1e-4)
    assert abs(product(5, 2) - product(5, 3)) > 1e-2


def naive_attention(q, k, v, mask):
    """One query head at a time; a query without keys gets nothing to compare."""
    batch, time, heads, width = q.shape
    shared = heads // k.shape[2]
    out = np.zeros(q.shape)
    for b in range(batch):
        for n in range(heads):
            key, value = k[b, :, n // shared].astype(np.float64), v[b, :, n // shared].astype(np.float64)
            for t in range(time):
                weights = np.where(mask[b, t], np.exp(key @ q[b, t, n] / math.sqrt(width)), 0.0)
                out[b, t, n] = weights / weights.sum() @ value
    return out


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (6, 2), (3, 1)])
def test_attention_equals_the_naive_one_per_head(heads, kv_heads):
    q, k, v = normal(0, 2, 3, heads, 4), normal(1, 2, 5, kv_heads, 4), normal(2, 2, 5, kv_heads, 4)
    mask = np.random.default_rng(3).random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    found = attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), jnp.asarray(mask))
    np.testing.assert_allclose(found, naive_attention(q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_hidden_keys_have_no_influence_even_when_huge():
    q, k, v = normal(0, 1, 2, 2, 4), normal(1, 1, 3, 2, 4), normal(2, 1, 3, 2, 4)
    mask = jnp.array([[[True, True, False]] * 2])
    loud_k, loud_v = k.copy(), v.copy()
    loud_k[:, 2], loud_v[:, 2] = 100 * np.sign(q[0, 0]), 1e6
    found = attention(*map(jnp.asarray, (q, loud_k, loud_v)), mask)
    np.testing.assert_array_equal(found, attention(*map(jnp.asarray, (q, k, v)), mask))


def test_a_query_without_keys_is_finite_in_value_and_gradient():
    q, k, v = (jnp.asarray(normal(i, 1, 2, 2, 4)) for i in range(3))
    mask = jnp.array([[[False, False], [True, True]]])
    value, grads = jax.jit(jax.value_and_grad(lambda *qkv: jnp.sum(attention(*qkv, mask)), argnums=(0, 1, 2)))(q, k, v)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


def repeated(q, pk, pv, pmask, ok, ov, omask):
    """:func:`prefix_attention` by way of :func:`attention`: the prefix copied to each sample."""
    batch, group, time = q.shape[:3]

    def rows(prefix, own):
        prefix = jnp.broadcast_to(prefix[:, None], (batch, group, *prefix.shape[1:]))
        both = jnp.concatenate([prefix, own], axis=2)
        return both.reshape(batch * group, *both.shape[2:])

    pmask, omask = (
        jnp.broadcast_to(pmask, (batch, group, time, pmask.shape[-1])),
        jnp.broadcast_to(omask, (batch, group, time, omask.shape[-1])),
    )
    mask = jnp.concatenate([pmask, omask], axis=-1).reshape(batch * group, time, -1)
    return attention(q.reshape(-1, *q.shape[2:]), rows(pk, ok), rows(pv, ov), mask).reshape(q.shape)


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99)
)
def test_prefix_attention_equals_attention_to_repeated_prefixes(batch, group, time, prefix, own, seed):
    heads, kv_heads, width = 4, 2, 4
    q = normal(seed, batch, group, time, heads, width)
    pk, pv = (normal(seed + i, batch, prefix, kv_heads, width) for i in (1, 2))
    ok, ov = (normal(seed + i, batch, group, own, kv_heads, width) for i in (3, 4))
    rng = np.random.default_rng(seed)
    pmask, omask = rng.random((batch, 1, time, prefix)) < 0.7, rng.random((batch, group, time, own)) < 0.7
    pmask[..., -1] = True
    args = tuple(map(jnp.asarray, (q, pk, pv, pmask, ok, ov, omask)))
    np.testing.assert_allclose(jax.jit(prefix_attention)(*args), jax.jit(repeated)(*args), rtol=1e-5, atol=1e-6)


def test_gradients_of_prefix_attention_equal_those_of_repeated_prefixes():
    shapes = {
        "q": (2, 3, 2, 4, 4),
        "pk": (2, 3, 2, 4),
        "pv": (2, 3, 2, 4),
        "ok": (2, 3, 2, 2, 4),
        "ov": (2, 3, 2, 2, 4),
    }
    q, pk, pv, ok, ov = (jnp.asarray(normal(i, *shape)) for i, shape in enumerate(shapes.values()))
    pmask, omask = jnp.ones((2, 1, 2, 3), bool), jnp.tril(jnp.ones((2, 2), bool))[None, None]

    def gradients(f):
        loss = jax.jit(
            jax.grad(lambda q, pk, pv, ok, ov: jnp.sum(jnp.sin(f(q, pk, pv, pmask, ok, ov, omask))), range(5))
        )
        return loss(q, pk, pv, ok, ov)

    for found, want in zip(gradients(prefix_attention), gradients(repeated)):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_gradients_of_norm_and_gate_are_those_of_their_formulas(batch, time, width, seed):
    x, up, dy = (jnp.asarray(normal(seed + i, batch, time, width)) for i in range(3))

    def plain_unit(x):
        return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)

    def plain_gate(gate, up):
        return gate / (1 + jnp.exp(-gate)) * up

    for own, plain, args in ((lambda x: unit_rms(x, 1e-5), plain_unit, (x,)), (swiglu, plain_gate, (x, up))):
        (y, back), (want_y, want_back) = jax.vjp(own, *args), jax.vjp(plain, *args)
        np.testing.assert_allclose(y, want_y, rtol=1e-5, atol=1e-6)
        for found, want in zip(back(dy), want_back(dy)):
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_the_gate_keeps_its_inputs_only():
    gate, up = jnp.asarray(normal(0, 4, 8)), jnp.asarray(normal(1, 4, 8))
    assert [kept.size for kept in jax.tree.leaves(jax.vjp(swiglu, gate, up)[1])] == [32, 32]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_large_gate_has_finite_gradients(dtype):
    gate = jnp.asarray([-1e4, -100.0, 0.0, 100.0, 1e4], dtype)
    y, back = jax.vjp(swiglu, gate, jnp.ones(5, dtype))
    d_gate, d_up = back(jnp.ones(5, dtype))
    np.testing.assert_array_equal(y, jnp.asarray([0, 0, 0, 100, 1e4], dtype))
    np.testing.assert_allclose(jnp.float32(d_gate), [0, 0, 0.5, 1, 1], atol=1e-6)
    assert d_gate.dtype == d_up.dtype == dtype
