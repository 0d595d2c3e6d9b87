"""Scores of chosen tokens: equal to those of all tokens, in time and memory of the chosen ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.logprobs import entropy, masked_token_scores, token_logprobs

N, D, V = 11, 4, 7


def problem(seed):
    rng = np.random.default_rng(seed)
    hidden, head = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((N, D), (D, V)))
    return hidden, head, jnp.asarray(rng.integers(0, V, N), jnp.int32), rng


def masked(mask, x):
    return np.where(mask, np.asarray(x), 0)


@given(st.integers(0, 99), st.integers(1, N + 3), st.floats(0, 1))
def test_they_are_those_of_the_whole_vocabulary_at_once(seed, chunk, share):
    hidden, head, targets, rng = problem(seed)
    mask = rng.random(N) < share
    logits = hidden @ head
    found = masked_token_scores(hidden, lambda h: h @ head, targets, jnp.asarray(mask), chunk=chunk)
    np.testing.assert_allclose(found.logp, masked(mask, token_logprobs(logits, targets)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.entropy, masked(mask, entropy(logits)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.correct, mask & (np.asarray(logits).argmax(-1) == np.asarray(targets)))
    assert (found.logp.dtype, found.correct.dtype) == (jnp.float32, bool)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_gradients_to_hidden_states_and_head(share):
    hidden, head, targets, rng = problem(1)
    mask = jnp.asarray(rng.random(N) < share)
    weights = jnp.asarray(rng.normal(size=N), jnp.float32)

    def chunked(hidden, head):
        return jnp.sum(weights * masked_token_scores(hidden, lambda h: h @ head, targets, mask, chunk=3).logp)

    def plain(hidden, head):
        return jnp.sum(jnp.where(mask, weights * token_logprobs(hidden @ head, targets), 0.0))

    found, want = (jax.grad(f, argnums=(0, 1))(hidden, head) for f in (chunked, plain))
    chex.assert_trees_all_close(found, want, rtol=1e-5, atol=1e-6)
    assert not np.asarray(found[0])[~np.asarray(mask)].any()


def test_what_is_not_chosen_may_be_anything():
    hidden, head, targets, _ = problem(2)
    mask = jnp.arange(N) % 2 == 0
    spoilt = jnp.where(mask[:, None], hidden, jnp.nan)

    def total(hidden):
        return jnp.sum(masked_token_scores(hidden, lambda h: h @ head, targets, mask, chunk=4).logp)

    chex.assert_trees_all_equal(jax.value_and_grad(total)(spoilt)[0], total(hidden))
    chosen = np.asarray(mask)
    np.testing.assert_allclose(jax.grad(total)(spoilt)[chosen], jax.grad(total)(hidden)[chosen], rtol=1e-6)


@pytest.mark.parametrize(("chosen", "calls"), [(0, 0), (1, 1), (3, 1), (4, 2), (11, 4)])
def test_chunks_without_a_chosen_token_cost_nothing(chosen, calls):
    hidden, head, targets, rng = problem(3)
    mask = np.zeros(N, bool)
    mask[rng.permutation(N)[:chosen]] = True
    seen = []

    def spy(h):
        jax.debug.callback(lambda: seen.append(1))
        return h @ head

    jax.block_until_ready(jax.jit(lambda m: masked_token_scores(hidden, spy, targets, m, chunk=3))(jnp.asarray(mask)))
    jax.effects_barrier()
    assert len(seen) == calls


def test_no_array_holds_the_logits_of_all_tokens():
    n, d, v, chunk = 2048, 8, 1024, 32
    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((n, d), jnp.float32), ((d, v), jnp.float32))]
    more = [jax.ShapeDtypeStruct((n,), jnp.int32), jax.ShapeDtypeStruct((n,), bool)]

    def total(hidden, head, targets, mask):
        return jnp.sum(masked_token_scores(hidden, lambda h: h @ head, targets, mask, chunk=chunk).logp)

    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes, *more).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * v * 4 / 6
