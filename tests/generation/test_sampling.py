"""The sampler: what temperature, top-k and top-p keep, and how often what is kept is drawn."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig, keep_top_k, keep_top_p, sample

PROBS = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
LOGITS = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 3.0  # any constant: logits need not be normalized
DRAWS = 20_000
# The total variation distance of n draws over 5 tokens exceeds e with probability <= 2^5 exp(-2 n e^2) (Hoeffding over
# every set of tokens): 3.6e-6 for a right sampler and any one key.
DISTANCE = 0.02


def kept(logits, filtered):
    np.testing.assert_array_equal(filtered[filtered > -1e29], logits[filtered > -1e29])
    return (np.asarray(filtered) > -1e29).tolist()


@pytest.mark.parametrize("k", [0, 5, 6, 1000])
def test_top_k_of_zero_or_of_all_keeps_all(k):
    np.testing.assert_array_equal(keep_top_k(LOGITS, k), LOGITS)


def test_top_k_keeps_the_k_largest_of_each_row():
    logits = jnp.array([[1.0, 4.0, 2.0, 3.0], [9.0, -1.0, 0.0, 3.0]])
    assert kept(logits, keep_top_k(logits, 2)) == [[False, True, False, True], [True, False, False, True]]
    assert kept(logits, keep_top_k(logits, 1)) == [[False, True, False, False], [True, False, False, False]]


def test_ties_with_the_last_that_is_kept_stay():
    logits = jnp.array([1.0, 2.0, 2.0, 0.0])
    assert kept(logits, keep_top_k(logits, 1)) == [False, True, True, False]
    assert kept(logits, keep_top_p(logits, 0.1)) == [False, True, True, False]
    equal = jnp.zeros(4)
    assert all(kept(equal, keep_top_k(equal, 2))) and all(kept(equal, keep_top_p(equal, 0.3)))


@pytest.mark.parametrize(
    ("p", "count"), [(1e-9, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.84, 3), (0.86, 4), (0.96, 5), (1.0, 5)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, count):
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        logits = LOGITS[jnp.array(order)]
        assert kept(logits, keep_top_p(logits, p)) == [token < count for token in order]


VALUES = st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6)


@hypothesis.given(VALUES, st.floats(1e-6, 1.0), st.integers(0, 8))
def test_the_best_token_always_stays(values, p, k):
    logits = jnp.array(values, jnp.float32)
    filtered = keep_top_p(keep_top_k(logits, k), p)
    assert filtered[jnp.argmax(logits)] == jnp.max(logits)


def test_temperature_zero_is_greedy_whatever_the_key():
    logits = jax.random.normal(jax.random.key(0), (3, 4, 7))
    for seed in range(3):
        tokens, logp = sample(jax.random.key(seed), logits, SamplingConfig(temperature=0.0))
        np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
        np.testing.assert_allclose(logp, jnp.max(jax.nn.log_softmax(logits), axis=-1), atol=1e-6)
        assert tokens.dtype == jnp.int32


def frequencies(cfg, seed=0):
    logits = jnp.broadcast_to(LOGITS, (DRAWS, 5))
    tokens, logp = jax.jit(sample, static_argnames="cfg")(jax.random.key(seed), logits, cfg=cfg)
    return np.bincount(tokens, minlength=5) / DRAWS, np.asarray(tokens), np.asarray(logp)


def powered(temperature):
    weights = PROBS ** (1 / temperature)
    return weights / weights.sum()


def cut(probs, count):
    """Renormalized over the most probable tokens, which come first."""
    return np.where(np.arange(5) < count, probs, 0.0) / probs[:count].sum()


SHARP = powered(0.5)  # 0.56, 0.22, 0.14, ...
DISTRIBUTIONS = {
    "temperature 1": (SamplingConfig(), PROBS),
    "temperature 0.5": (SamplingConfig(temperature=0.5), SHARP),
    "temperature 2": (SamplingConfig(temperature=2.0), powered(2.0)),
    "top-k 2": (SamplingConfig(top_k=2), cut(PROBS, 2)),
    "top-p 0.7": (SamplingConfig(top_p=0.7), cut(PROBS, 3)),
    "top-p after temperature": (SamplingConfig(temperature=0.5, top_p=0.7), cut(SHARP, 2)),
    "top-p of what top-k left": (SamplingConfig(top_k=3, top_p=0.7), cut(PROBS, 2)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution(name):
    cfg, want = DISTRIBUTIONS[name]
    found, tokens, logp = frequencies(cfg)
    assert 0.5 * np.abs(found - want).sum() < DISTANCE
    assert not found[want == 0].any()
    # Reported are log-probabilities of the whole vocabulary under the temperature: top-k and top-p do not enter.
    np.testing.assert_allclose(logp, np.log(powered(cfg.temperature))[tokens], atol=1e-5)


def test_the_distributions_differ_by_more_than_the_bound():
    """Else the test above could not tell them apart."""
    wants = np.unique([want.round(6) for _, want in DISTRIBUTIONS.values()], axis=0)
    assert len(wants) == 6  # two ways lead to the same two tokens
    for i, one in enumerate(wants):
        for other in wants[:i]:
            assert 0.5 * np.abs(one - other).sum() > 3 * DISTANCE


def test_rows_are_drawn_independently_and_by_the_key():
    _, one, _ = frequencies(SamplingConfig())
    _, again, _ = frequencies(SamplingConfig())
    _, other, _ = frequencies(SamplingConfig(), seed=1)
    np.testing.assert_array_equal(one, again)
    # Two independent draws agree with probability sum p^2 = 0.275; six standard errors are 0.027 (of half as many).
    for left, right in ((one[::2], one[1::2]), (one[::2], other[::2])):
        assert abs((left == right).mean() - (PROBS**2).sum()) < 0.027


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_p": float("nan")}, "top_p nan"),
    ],
)
def test_bad_values_are_named(changes, named):
    with pytest.raises(UserError, match=named) as raised:
        SamplingConfig(**changes)
    assert "\n" not in str(raised.value)


def test_config_is_hashable_and_frozen():
    assert hash(SamplingConfig()) == hash(SamplingConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingConfig().top_k = 3
