"""Magnetic mirror descent: worked by hand, against its closed form, and by the laws that every loss obeys."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.advantages import group_advantages
from lqlm.algorithms.mirror import (
    answer_kl,
    answer_logp,
    expectation,
    legal_logp,
    mirror_losses,
    mirror_policy,
    replicator_losses,
    sampled_values,
)
from lqlm.algorithms.mirror_objective import MirrorBatch, MirrorConfig, mirror_objective
from lqlm.errors import UserError

ROWS, ANSWERS = 5, 4
ALPHA, ETA = 0.3, 0.5
MASK = jnp.array([[True] * 4, [True, True, False, False], [True, False, True, True], [True, False, False, False]])
seeds = st.integers(0, 2**16)
losses = jax.jit(lambda *x: mirror_losses(*x, alpha=ALPHA, eta=ETA))
in_logits = jax.jit(lambda *x: replicator_losses(*x, alpha=ALPHA, eta=ETA))
BOTH = pytest.mark.parametrize("run", [losses, in_logits], ids=["mirror", "replicator"])


def arrays(seed=0, mask=MASK):
    """Scores, values, and two more policies."""
    rng = np.random.default_rng(seed)
    scores, values, old, magnet = (jnp.asarray(rng.normal(0, 1.5, mask.shape), jnp.float32) for _ in range(4))
    return scores, values, answer_logp(old, mask), answer_logp(magnet, mask)


def loss(scores, values, old, magnet, mask, run=losses):
    return run(answer_logp(scores, mask), values, old, magnet, mask)


def gradient(scores, *rest, run=losses):
    return jax.grad(lambda scores: jnp.sum(loss(scores, *rest, run=run)))(scores)


def test_two_answers_by_hand():
    """pi = (1/4, 3/4), q = (2, -1), old = (1/2, 1/2), magnet = (3/4, 1/4)."""
    pi, old, magnet = (jnp.log(jnp.array([p])) for p in ([0.25, 0.75], [0.5, 0.5], [0.75, 0.25]))
    q = jnp.array([[2.0, -1.0]])
    near = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    pulled = 0.25 * np.log(1 / 3) + 0.75 * np.log(3)
    found = mirror_losses(pi, q, old, magnet, q != 0, alpha=0.5, eta=0.1)
    np.testing.assert_allclose(found, [0.25 + 0.5 * pulled + 10 * near], rtol=1e-6)


@given(seeds)
def test_the_divergences_are_exact(seed):
    scores, _, old, magnet = arrays(seed)
    rows = [np.flatnonzero(row) for row in np.asarray(MASK)]
    want = [float(np.sum(np.exp(old[i, r]) * (old[i, r] - magnet[i, r]))) for i, r in enumerate(rows)]
    np.testing.assert_allclose(answer_kl(old, magnet, MASK), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(answer_kl(old, old, MASK), 0.0)
    np.testing.assert_array_equal(jnp.where(MASK, 0.0, old), 0.0)
    np.testing.assert_allclose(jnp.exp(old).sum(axis=1, where=MASK), 1.0, rtol=1e-6)
    total = [np.log(np.exp(np.asarray(scores)[i, r]).sum()) for i, r in enumerate(rows)]
    np.testing.assert_allclose(legal_logp(scores, MASK), total, rtol=1e-5, atol=1e-6)


@given(seeds)
def test_at_the_old_policy_the_gradient_is_that_of_the_advantages(seed):
    """``-pi (A - E A)`` with ``A = q - alpha log(pi / magnet)``: the step size has no part in it."""
    _, q, old, magnet = arrays(seed)
    found, pi = gradient(old, q, old, magnet, MASK), jnp.where(MASK, jnp.exp(old), 0.0)
    advantage = jnp.where(MASK, q - ALPHA * (old - magnet), 0.0)
    want = -pi * (advantage - jnp.sum(pi * advantage, axis=1, keepdims=True))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


@given(seeds)
def test_the_minimum_is_the_closed_form(seed):
    """Equation 8 of arXiv:2206.05825; every other policy is worse by its divergence, ``(alpha + 1/eta) KL``."""
    scores, q, old, magnet = arrays(seed)
    best = mirror_policy(q, old, magnet, MASK, alpha=ALPHA, eta=ETA)
    for run in (losses, in_logits):
        np.testing.assert_allclose(gradient(best, q, old, magnet, MASK, run=run), 0.0, atol=3e-6)
    logp = answer_logp(scores, MASK)
    worse = losses(logp, q, old, magnet, MASK) - losses(best, q, old, magnet, MASK)
    np.testing.assert_allclose(worse, (ALPHA + 1 / ETA) * answer_kl(logp, best, MASK), rtol=1e-3, atol=1e-4)


@given(seeds, st.floats(0.1, 20.0))
def test_in_logits_the_gradient_does_not_fade_with_the_probability(seed, sure):
    """``-(q - mean q)`` at the old policy without a magnet, however sure that policy is."""
    _, q, old, magnet = arrays(seed)
    old = answer_logp(sure * old, MASK)
    run = lambda *x: replicator_losses(*x, alpha=0.0, eta=ETA)  # noqa: E731
    mean = jnp.mean(q, axis=1, keepdims=True, where=MASK)
    want = jnp.where(MASK, mean - q, 0.0)
    np.testing.assert_allclose(gradient(old, q, old, magnet, MASK, run=run), want, rtol=1e-3, atol=1e-4)


@BOTH
@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf, -jnp.inf, 1e30])
def test_what_is_not_legal_changes_nothing(run, junk):
    x = arrays()
    want, slope = loss(*x, MASK, run=run), gradient(*x, MASK, run=run)
    dirty = [jnp.where(MASK, array, junk) for array in x]
    np.testing.assert_array_equal(loss(*dirty, MASK, run=run), want)
    found = gradient(*dirty, MASK, run=run)
    np.testing.assert_array_equal(found, slope)
    np.testing.assert_array_equal(jnp.where(MASK, 0.0, found), 0.0)
    np.testing.assert_array_equal(legal_logp(dirty[0], MASK), legal_logp(x[0], MASK))


@BOTH
def test_a_row_without_legal_answers_is_zero(run):
    x, none = arrays(), jnp.zeros_like(MASK)
    np.testing.assert_array_equal(loss(*x, none, run=run), 0.0)
    np.testing.assert_array_equal(gradient(*x, none, run=run), 0.0)
    np.testing.assert_array_equal(legal_logp(x[0], none), 0.0)


@BOTH
@given(seed=seeds, order=st.permutations(range(ANSWERS)))
def test_the_order_of_answers_does_not_matter(run, seed, order):
    x, places = arrays(seed), jnp.array(order)
    found = loss(*(a[:, places] for a in x), MASK[:, places], run=run)
    np.testing.assert_allclose(found, loss(*x, MASK, run=run), rtol=1e-4, atol=1e-5)


@BOTH
def test_jit_equals_eager(run):
    x = arrays()
    np.testing.assert_allclose(loss(*x, MASK, run=run), loss(*x, MASK, run=run.__wrapped__), rtol=1e-5, atol=1e-6)


@BOTH
def test_only_the_policy_has_a_gradient(run):
    x = arrays()
    rest = jax.grad(lambda x: jnp.sum(run(x[0], *x[1:], MASK)))((answer_logp(x[0], MASK), *x[1:]))
    for other in rest[1:]:
        np.testing.assert_array_equal(other, 0.0)


@given(seeds)
def test_sampled_values_give_the_gradient_of_reinforce(seed):
    """``-1/G sum_g A_g grad log pi(a_g)`` at the old policy."""
    rng = np.random.default_rng(seed)
    mask = MASK[:3]
    _, q, old, _ = arrays(seed, mask)
    drawn = jnp.asarray([rng.choice(np.flatnonzero(row), 6) for row in np.asarray(mask)])
    advantages = group_advantages(jnp.take_along_axis(q, drawn, axis=1))

    def surrogate(scores):
        logp = jnp.take_along_axis(answer_logp(scores, mask), drawn, axis=1)
        return -jnp.sum(jnp.mean(advantages * logp, axis=1))

    values = sampled_values(drawn, advantages, old)
    found = jax.grad(lambda scores: -jnp.sum(expectation(answer_logp(scores, mask), values, mask)))(old)
    np.testing.assert_allclose(found, jax.grad(surrogate)(old), rtol=1e-4, atol=1e-5)


def test_sampled_values_are_right_on_average():
    """Of raw values; a z-score of few samples is not."""
    rng, draws = np.random.default_rng(0), 40_000
    policy, q = np.array([0.2, 0.5, 0.3]), np.array([1.0, -2.0, 4.0])
    drawn = rng.choice(3, (1, draws), p=policy)
    found = sampled_values(jnp.asarray(drawn), jnp.asarray(q[drawn], jnp.float32), jnp.log(jnp.asarray(policy[None])))
    np.testing.assert_allclose(found[0], q, atol=0.05)


def batch(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(3) < rng.integers(1, 4, rows)[:, None]
    mask[-1] = False
    _, values, old, magnet = arrays(seed, jnp.asarray(mask))
    answers = jnp.zeros((rows, 3, 2), jnp.int32)
    tokens = jnp.asarray(np.stack([mask, mask], axis=-1))
    prompts = jnp.zeros((rows, 1), jnp.int32)
    weights = jnp.asarray(rng.gamma(2.0, 1.0, rows), jnp.float32)
    return MirrorBatch(
        prompts, prompts == 0, answers, tokens, values, old, magnet, weights, jnp.asarray(ALPHA, jnp.float32)
    )


def test_the_objective_is_the_weighted_mean_whatever_the_parts():
    whole, cfg = batch(), MirrorConfig(eta=ETA, legal=0.2)
    scores = jnp.asarray(np.random.default_rng(3).normal(size=(6, 3)), jnp.float32)
    objective = mirror_objective(lambda adapters, base, batch, key: adapters[batch.prompts_BP[:, 0]], cfg)
    whole = dataclasses.replace(whole, prompts_BP=jnp.arange(6)[:, None])
    prepared = objective.prepare(whole)
    value, means = objective.loss(scores, {}, prepared, None)
    each = losses(
        answer_logp(scores, whole.mask_BA), whole.values_BA, whole.old_logp_BA, whole.magnet_BA, whole.mask_BA
    )
    weights = np.asarray(whole.weights_B) * [1, 1, 1, 1, 1, 0]
    want = np.average(each - 0.2 * legal_logp(scores, whole.mask_BA), weights=weights)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    at = lambda rows: jax.tree.map(lambda x: x if x.ndim == 0 else x[rows], prepared)  # noqa: E731
    parts = [objective.loss(scores, {}, at(rows), None) for rows in (slice(0, 2), slice(2, 6))]
    summed = jax.tree.map(lambda a, b: a + b, *parts)
    chex.assert_trees_all_close(summed, (value, means), rtol=1e-4, atol=1e-6)
    assert set(objective.finish(means)) == {"value", "entropy", "kl_magnet", "kl_old", "legal"}
    assert float(means["entropy"]) > 0 and float(means["kl_old"]) > 0


def test_what_has_no_meaning_is_refused():
    for wrong in ({"eta": 0.0}, {"legal": -1.0}):
        with pytest.raises(UserError, match="MirrorConfig"):
            MirrorConfig(**wrong)
