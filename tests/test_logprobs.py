"""Log-probabilities: against numpy in float64, chunked against plain, and by the memory of the compiled gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm import logprobs


def problem(n, width=8, vocab=13, seed=0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(n, width)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(width, vocab)), jnp.float32)
    return hidden, weight, jnp.asarray(rng.integers(0, vocab, n), jnp.int32)


def test_token_logprobs_equal_numpy_float64():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 7)) * 5, rng.integers(0, 7, (2, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    got = logprobs.token_logprobs(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(got, np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0]), atol=2e-6)
    np.testing.assert_allclose(logprobs.entropy(jnp.asarray(logits, jnp.float32)), -(p * np.log(p)).sum(-1), atol=2e-6)


def test_large_logits_and_bfloat16_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]], jnp.bfloat16)
    got = logprobs.token_logprobs(logits, jnp.array([1]))
    assert got.dtype == jnp.float32
    chex.assert_tree_all_finite((got, logprobs.entropy(logits)))


def test_entropy_and_its_gradient_with_forbidden_tokens():
    logits = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(logprobs.entropy(logits), np.log(2), atol=1e-6)
    chex.assert_tree_all_finite(jax.grad(logprobs.entropy)(logits))


@given(st.integers(1, 11), st.integers(1, 12), st.sampled_from([0.5, 1.0, 1.7]))
def test_chunked_equals_plain_in_value_and_gradient(n, chunk, temperature):
    hidden, weight, targets = problem(n)
    sign = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -0.5)

    def chunked(hidden, weight):
        logp, h = logprobs.chunked_token_logprobs(
            hidden, lambda x: x @ weight, targets, temperature=temperature, chunk=chunk, with_entropy=True
        )
        return jnp.sum(sign * logp + 0.3 * h), (logp, h)

    def plain(hidden, weight):
        logits = hidden @ weight / temperature
        logp, h = logprobs.token_logprobs(logits, targets), logprobs.entropy(jax.lax.stop_gradient(logits))
        return jnp.sum(sign * logp + 0.3 * h), (logp, h)

    got, want = [jax.grad(f, argnums=(0, 1), has_aux=True)(hidden, weight) for f in (chunked, plain)]
    chex.assert_trees_all_close(got, want, atol=1e-5)


def test_an_entropy_bonus_has_a_gradient():
    """Only when it is asked for, and then that of the entropy of all logits."""
    hidden, head, targets = problem(7)

    def total(hidden, wanted):
        scores = logprobs.chunked_token_logprobs(
            hidden, lambda x: x @ head, targets, chunk=3, temperature=0.7, with_entropy=True, entropy_gradient=wanted
        )
        return scores[1].sum()

    plain = jax.grad(lambda x: logprobs.entropy(x @ head / 0.7).sum())(hidden)
    np.testing.assert_allclose(jax.grad(total)(hidden, True), plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(jax.grad(total)(hidden, False), 0.0)


def test_no_entropy_unless_asked():
    hidden, weight, targets = problem(4)
    logp, h = logprobs.chunked_token_logprobs(hidden, lambda x: x @ weight, targets, chunk=2)
    assert h is None
    chex.assert_shape(logp, (4,))


def gradient_memory(score, n, vocab):
    spec = jax.ShapeDtypeStruct
    args = spec((n, 16), jnp.float32), spec((16, vocab), jnp.float32), spec((n,), jnp.int32)
    loss = jax.grad(lambda h, w, t: jnp.sum(score(h, w, t)))
    return jax.jit(loss).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_gradient_never_holds_all_logits():
    n, vocab = 512, 2048
    all_logits = 4 * n * vocab
    plain = gradient_memory(lambda h, w, t: logprobs.token_logprobs(h @ w, t), n, vocab)
    chunked = gradient_memory(
        lambda h, w, t: logprobs.chunked_token_logprobs(h, lambda x: x @ w, t, chunk=32)[0], n, vocab
    )
    assert plain >= all_logits  # else this test measures nothing
    assert chunked < all_logits / 3


def test_divergence_estimators_by_hand():
    logp, ref = jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.25, 0.4]))
    np.testing.assert_allclose(logprobs.k1(logp, ref), [np.log(2), -np.log(2)], atol=1e-6)
    np.testing.assert_allclose(logprobs.k2(logp, ref), [np.log(2) ** 2 / 2] * 2, atol=1e-6)
    np.testing.assert_allclose(logprobs.k3(logp, ref), [0.5 + np.log(2) - 1, 2 - np.log(2) - 1], atol=1e-6)


@pytest.mark.parametrize("estimator", [logprobs.k1, logprobs.k3])
def test_unbiased_estimators_have_the_exact_mean(estimator):
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    each = estimator(jnp.log(jnp.asarray(p, jnp.float32)), jnp.log(jnp.asarray(q, jnp.float32)))
    np.testing.assert_allclose((p * np.asarray(each)).sum(), (p * np.log(p / q)).sum(), atol=1e-6)


def test_k3_is_exact_near_the_reference():
    got = logprobs.k3(jnp.float32(-1.0), jnp.float32(-1.0 + 2.0**-12))
    np.testing.assert_allclose(got, 2.0**-25, rtol=1e-3)


def test_statistics_of_tokens():
    """Against the softmax itself, also where a logit is minus infinity; nothing has a gradient."""
    rng = np.random.default_rng(3)
    z = rng.normal(0, 3, (5, 7)).astype(np.float32) + np.float32(50.0)
    p = np.exp(z - z.max(-1, keepdims=True).astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    targets = jnp.asarray([int(p[0].argmax()), 0, 1, 2, int(p[4].argmax())])
    found = jax.jit(logprobs.token_statistics)(jnp.asarray(z), targets)
    np.testing.assert_allclose(found.log_collision, np.log((p**2).sum(-1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean_logit, z.mean(-1), rtol=1e-6)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), rtol=1e-4)
    assert found.correct.tolist() == (p.argmax(-1) == np.asarray(targets)).tolist()
    gradient = jax.grad(lambda z: sum(jnp.sum(x) for x in logprobs.token_statistics(z, targets)[:3]))(jnp.asarray(z))
    assert not np.any(gradient)
    shut = logprobs.token_statistics(jnp.array([[0.0, -jnp.inf]]), jnp.array([0]))
    assert float(shut.log_collision[0]) == 0.0 and bool(shut.correct[0])
