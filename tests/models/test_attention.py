"""Attention's own backward pass: equal to JAX's of the plain formula, without a number for each query and key kept."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from lqlm.models.attention import attention, prefix_attention


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def plain(q, k, v, mask):
    """The formula, one key head for each query head."""
    heads = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, heads, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def plain_prefix(q, pk, pv, pmask, ok, ov, omask):
    batch, group, time = q.shape[:3]

    def rows(prefix, own):
        prefix = jnp.broadcast_to(prefix[:, None], (batch, group, *prefix.shape[1:]))
        return jnp.concatenate([prefix, own], axis=2).reshape(batch * group, -1, *prefix.shape[3:])

    masks = (jnp.broadcast_to(m, (batch, group, time, m.shape[-1])) for m in (pmask, omask))
    mask = jnp.concatenate(list(masks), axis=-1).reshape(batch * group, time, -1)
    return plain(q.reshape(-1, *q.shape[2:]), rows(pk, ok), rows(pv, ov), mask).reshape(q.shape)


def case(seed, batch, group, time, prefix, own, heads=4, shared=2, width=8):
    """Masks hide some keys from some queries, and from a few all of them."""
    rng = np.random.default_rng(seed)
    q = normal(seed, batch, group, time, heads, width)
    pk, pv = (normal(seed + i, batch, prefix, shared, width) for i in (1, 2))
    ok, ov = (normal(seed + i, batch, group, own, shared, width) for i in (3, 4))
    pmask, omask = rng.random((batch, 1, time, prefix)) < 0.6, rng.random((batch, group, time, own)) < 0.6
    return tuple(map(jnp.asarray, (q, pk, pv, pmask, ok, ov, omask)))


def pulled(f, *arrays):
    """Value, and the gradients with respect to all floating arguments for a random slope."""

    def run(*arrays):
        given = [i for i, x in enumerate(arrays) if x.dtype != bool]

        def of(*floats):
            every = list(arrays)
            for i, x in zip(given, floats):
                every[i] = x
            return f(*every)

        y, back = jax.vjp(of, *(arrays[i] for i in given))
        return y, back(jnp.asarray(normal(9, *y.shape), y.dtype))

    return jax.jit(run)(*arrays)


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.integers(0, 99)
)
def test_value_and_gradients_of_prefix_attention(batch, group, time, prefix, own, seed):
    arrays = case(seed, batch, group, time, prefix, own)
    found, want = pulled(prefix_attention, *arrays), pulled(plain_prefix, *arrays)
    chex.assert_trees_all_close(found, want, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(prefix_attention(*arrays), found[0], rtol=1e-5, atol=1e-6)  # jit equals eager


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(0, 99)
)
def test_value_and_gradients_of_attention(batch, time, keys, shared, seed):
    q, k, v, mask, *_ = case(seed, batch, 1, time, keys, 1, shared=shared)
    found, want = (pulled(f, q[:, 0], k, v, mask[:, 0]) for f in (attention, plain))
    chex.assert_trees_all_close(found, want, rtol=1e-4, atol=1e-5)


def test_gradients_in_16_bits():
    """Types of the arguments, and values as far from those in 32 bits as 16 bits are."""
    q, k, v, mask, *_ = case(0, 2, 1, 6, 5, 1)
    wide = (q[:, 0], k, v, mask[:, 0])
    narrow = tuple(x if x.dtype == bool else x.astype(jnp.bfloat16) for x in wide)
    (y, found), (want_y, want) = pulled(attention, *narrow), pulled(plain, *wide)
    assert {x.dtype for x in (y, *found)} == {jnp.dtype(jnp.bfloat16)}
    chex.assert_trees_all_close(jax.tree.map(jnp.float32, (y, found)), (want_y, want), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("group", [1, 3])
def test_no_number_is_kept_for_each_query_and_key(group):
    q, pk, pv, pmask, ok, ov, omask = case(0, 1, group, 64, 64, 64, heads=2, shared=1)
    for f, arrays in (
        (lambda q, k, v: attention(q, k, v, pmask[:, 0]), (q[:, 0], pk, pv)),
        (lambda q, pk, pv, ok, ov: prefix_attention(q, pk, pv, pmask, ok, ov, omask), (q, pk, pv, ok, ov)),
    ):
        kept = jax.tree.leaves(jax.vjp(f, *arrays)[1])
        floats = [x for x in kept if jnp.issubdtype(x.dtype, jnp.floating)]
        assert floats and max(x.size for x in floats) <= group * 64 * 2 * 8  # queries
