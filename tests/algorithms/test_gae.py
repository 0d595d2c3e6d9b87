"""Advantages and returns: worked by hand, against definitions written out in numpy, and what padding may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.gae import (
    discounted_returns,
    explained_variance,
    gae,
    gae_between,
    whiten,
    whiten_keeping_mean,
)

rates = st.floats(0.0, 1.0, width=32)
seeds = st.integers(0, 2**31)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
COMPILED = {f: jax.jit(f) for f in (gae, gae_between, discounted_returns, whiten, whiten_keeping_mean)}


def drawn(seed, rows=3, length=6, prefix=True):
    """Rewards, values and a mask, each ``[rows, length]``; the padding holds NaN."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, rows, length)).astype(np.float32)
    mask = rng.integers(0, 2, (rows, length)).astype(bool)
    if prefix:
        mask = np.arange(length)[None] < rng.integers(0, length + 1, rows)[:, None]
    return np.where(mask, rewards, np.nan), np.where(mask, values, np.nan), mask


def sum_of_deltas(rewards, values, gamma, lam):
    """Equation 16 of arXiv:1506.02438 as it stands: ``A_t = sum_l (gamma lam)^l delta_{t+l}``; float64, one row."""
    values = np.append(values, 0.0)
    deltas = rewards + gamma * values[1:] - values[:-1]
    n = len(rewards)
    return np.array([sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)])


def test_by_hand():
    """delta = (0 + 0.5 * 2 - 1, 4 + 0 - 2) = (0, 2); A = (0 + 0.5 * 0.5 * 2, 2); R = A + V."""
    arguments = jnp.array([[0.0, 4.0, 9.0]]), jnp.array([[1.0, 2.0, 9.0]]), jnp.array([[True, True, False]])
    found = gae(*arguments, gamma=0.5, lam=0.5)
    np.testing.assert_allclose(found.advantages, [[0.5, 2.0, 0.0]])
    np.testing.assert_allclose(found.returns, [[1.5, 4.0, 0.0]])
    np.testing.assert_allclose(discounted_returns(arguments[0], arguments[2], gamma=0.5), [[2.0, 4.0, 0.0]])


@pytest.mark.parametrize(("function", "prefix"), [(gae, True), (gae_between, True), (gae_between, False)])
@given(seed=seeds, gamma=rates, lam=rates)
def test_it_is_the_sum_of_the_deltas(function, prefix, seed, gamma, lam):
    """Tokens of others, between the policy's own, are skipped as if they were not there."""
    rewards, values, mask = drawn(seed, prefix=prefix)
    found = COMPILED[function](rewards, values, mask, gamma=gamma, lam=lam)
    for row, real in enumerate(mask):
        want = sum_of_deltas(rewards[row, real].astype(float), values[row, real].astype(float), gamma, lam)
        np.testing.assert_allclose(found.advantages[row, real], want, **CLOSE)
        np.testing.assert_allclose(found.returns[row, real], want + values[row, real], **CLOSE)
    assert not np.asarray(found.advantages)[~mask].any() and not np.asarray(found.returns)[~mask].any()


@given(seeds, rates)
def test_lambda_1_trusts_the_rewards_and_0_the_values(seed, gamma):
    rewards, values, mask = drawn(seed)
    returns = COMPILED[discounted_returns](rewards, mask, gamma=gamma)
    found = COMPILED[gae](rewards, values, mask, gamma=gamma, lam=1.0)
    np.testing.assert_allclose(found.returns, returns, **CLOSE)
    clean = np.where(mask, values, 0)
    delta = np.where(mask, rewards + gamma * np.pad(clean[:, 1:], ((0, 0), (0, 1))) - clean, 0)
    np.testing.assert_allclose(COMPILED[gae](rewards, values, mask, gamma=gamma, lam=0.0).advantages, delta, **CLOSE)


def test_of_several_turns_gae_would_be_another():
    rewards, values = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.5, 0.0, 0.25])
    mask = jnp.array([True, False, True])
    np.testing.assert_allclose(gae_between(rewards, values, mask, lam=0.5).advantages, [0.125, 0, 0.75])  # -.25 + .375
    assert gae(rewards, values, mask, lam=0.5).advantages[0] != 0.125


def test_an_integer_reward_counts_as_it_is():
    """Rewards of 0 and 1 arrive as integers; a half of them must not become 0."""
    found = gae(jnp.array([0, 1]), jnp.zeros(2, jnp.int32), jnp.array([True, True]), lam=0.5)
    assert found.advantages.dtype == jnp.float32 and float(found.advantages[0]) == 0.5
    assert float(discounted_returns(jnp.array([0, 1]), jnp.array([1, 1]), gamma=0.5)[0]) == 0.5
    assert whiten(jnp.array([0, 1]), jnp.array([1, 1])).dtype == jnp.float32


@given(seeds)
def test_more_padding_changes_nothing(seed):
    rewards, values, mask = drawn(seed)
    wide = [np.pad(x, ((0, 0), (0, 3)), constant_values=fill) for x, fill in ((rewards, np.inf), (values, np.nan))]
    arrays = [*wide, np.pad(mask, ((0, 0), (0, 3)))]
    for function in (gae, gae_between):
        narrow = COMPILED[function](rewards, values, mask)
        found = COMPILED[function](*arrays)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, :6], b), found, narrow)


@given(seeds)
def test_whitening(seed):
    _, values, mask = drawn(seed, prefix=False)
    n, found = int(mask.sum()), [np.asarray(COMPILED[f](values, mask)) for f in (whiten, whiten_keeping_mean)]
    assert not any(x[~mask].any() for x in found)
    real, kept = (x[mask] for x in found)
    if n > 1:
        assert abs(real.mean()) < 1e-4 and np.std(real, ddof=1) == pytest.approx(1.0, rel=1e-3)
        np.testing.assert_allclose(kept, real + values[mask].mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mask", [[0, 0, 0], [1, 0, 0], [1, 1, 1]], ids=["none", "one", "equal"])
def test_what_has_no_spread_becomes_0(mask):
    assert not np.asarray(whiten(jnp.full(3, 2.5), jnp.array(mask))).any()
    np.testing.assert_array_equal(whiten_keeping_mean(jnp.full(3, 2.5), jnp.array(mask)), 2.5 * np.array(mask))


def test_explained_variance():
    returns, mask = jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.array([True, True, True, False])
    assert float(explained_variance(returns, returns, mask)) == 1.0
    assert float(explained_variance(jnp.full(4, 7.0), returns, mask)) == 0.0
    assert float(explained_variance(-returns, returns, mask)) == pytest.approx(-3.0)
    assert float(explained_variance(returns, jnp.ones(4), mask)) == 0.0


def test_the_second_call_compiles_nothing():
    calls = 0

    def counted(*arrays):
        nonlocal calls
        calls += 1
        return gae(*arrays), gae_between(*arrays)

    compiled = jax.jit(counted)
    for seed in range(2):
        arrays = [jnp.asarray(x) for x in drawn(seed)]
        compiled(*arrays)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), compiled(*arrays), counted(*arrays))
    assert calls == 3  # once to compile, twice eagerly
