"""The sampler: what temperature, top-k, top-p and min-p keep, and how often what is kept is drawn."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.draw import BLOCK, best, draw
from lqlm.generation.sampling import SamplingConfig, kept_logits, sample, start_seen
from lqlm.generation.truncation import CANDIDATES, NEVER, keep_min_p, keep_top_k, keep_top_p

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


@pytest.mark.parametrize(("p", "count"), [(0.0, 5), (0.1, 5), (0.2, 4), (0.3, 3), (0.6, 2), (0.7, 1), (0.99, 1)])
def test_min_p_keeps_what_has_that_share_of_the_largest(p, count):
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        logits = LOGITS[jnp.array(order)]
        assert kept(logits, keep_min_p(logits, p)) == [token < count for token in order]


def sorted_nucleus(logits, p):
    """By sorting, in float64: which tokens stay, and by how much each is from the other side."""
    probs = np.exp(logits.astype(np.float64) - logits.max())
    probs /= probs.sum()
    before = np.array([probs[probs > prob].sum() for prob in probs])
    return before < p, np.abs(before - p)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.9999])
def test_the_nucleus_is_that_of_sorting_however_wide(scale, p):
    logits = (np.random.default_rng(0).normal(size=(3, 700)) * scale + 5).astype(np.float32)
    found = np.asarray(keep_top_p(jnp.asarray(logits), p)) > NEVER
    counts = []
    for row, stays in zip(logits, found):
        want, distance = sorted_nucleus(row, p)
        np.testing.assert_array_equal(stays[distance > 1e-5], want[distance > 1e-5])
        assert distance[stays != want].size <= 2
        counts.append(want.sum())
    assert scale != 0.01 or p < 0.5 or min(counts) > CANDIDATES  # found by bisection
    assert scale != 20.0 or p > 0.9 or max(counts) < CANDIDATES  # among the candidates


def test_a_wide_nucleus_beside_narrow_ones():
    """Rows are done at different times: none changes another's."""
    flat, sharp = np.zeros(700, np.float32), np.linspace(0, 90, 700).astype(np.float32)
    flat += np.random.default_rng(0).normal(size=700).astype(np.float32) * 0.1
    together = keep_top_p(jnp.stack([flat, sharp, flat[::-1]]), 0.8)
    for row, logits in zip(together, (flat, sharp, flat[::-1])):
        np.testing.assert_array_equal(row, keep_top_p(jnp.asarray(logits), 0.8))


VALUES = st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6)


@hypothesis.given(VALUES, st.floats(1e-6, 1.0), st.integers(0, 8))
def test_the_best_token_always_stays(values, p, k):
    logits = jnp.array(values, jnp.float32)
    filtered = keep_min_p(keep_top_p(keep_top_k(logits, k), p), min(p, 0.99))
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
    "min-p 0.3": (SamplingConfig(min_p=0.3), cut(PROBS, 3)),
    "min-p after temperature": (SamplingConfig(temperature=2.0, min_p=0.3), cut(powered(2.0), 5)),
    "min-p after top-p": (SamplingConfig(top_p=0.61, min_p=0.6), cut(PROBS, 2)),
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
    assert len(wants) == 6  # several ways lead to the same tokens
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


def test_penalties_and_minimum_are_drawn_with_too():
    """Token 0 was generated twice, token 3 is in the prompt, token 1 would end the completion."""
    cfg = SamplingConfig(
        min_new_tokens=3, temperature=0.8, presence_penalty=0.4, frequency_penalty=0.2, repetition_penalty=1.3
    )
    prompts = jnp.full((1, 2), 3, jnp.int32)
    seen = start_seen(cfg, prompts, jnp.ones((1, 2), bool), 1, 5)
    seen = seen.replace(counts_BGV=seen.counts_BGV.at[..., 0].set(2))
    logits = np.asarray(LOGITS, np.float64)
    logits[[0, 3]] /= 1.3
    logits[0] -= 0.2 * 2 + 0.4
    logits[1] = -np.inf
    want = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    keys = jax.random.split(jax.random.key(0), DRAWS)

    @jax.jit
    def one(key):
        return sample(key, LOGITS[None, None], cfg, seen, 2, (1,))

    tokens, logp = jax.vmap(one)(keys)
    found = np.bincount(tokens.ravel(), minlength=5) / DRAWS
    assert 0.5 * np.abs(found - want).sum() < DISTANCE and found[1] == 0
    np.testing.assert_allclose(logp, np.log(powered(0.8))[tokens], atol=1e-5)


def test_ends_wait_for_the_minimum_of_each_slot():
    logits = jnp.broadcast_to(LOGITS, (2, 3, 5))  # token 0 is the best, then 1, then 2
    cfg = SamplingConfig(min_new_tokens=2, temperature=0.0)
    step = jnp.array([[0, 1, 2], [3, 1, 0]], jnp.int32)
    tokens, logp = jax.jit(sample, static_argnames=("cfg", "eos_ids"))(
        jax.random.key(0), logits, cfg=cfg, step=step, eos_ids=(0, 1)
    )
    np.testing.assert_array_equal(tokens, [[2, 2, 0], [0, 2, 2]])
    np.testing.assert_allclose(logp, np.log(PROBS)[tokens], atol=1e-5)
    for scalar, want in ((1, 2), (2, 0)):
        assert (sample(jax.random.key(0), logits, cfg, step=scalar, eos_ids=(0, 1))[0] == want).all()
    with pytest.raises(UserError, match="min_new_tokens is on"):
        sample(jax.random.key(0), logits, cfg, eos_ids=(0,))


@pytest.mark.parametrize(
    "cfg",
    [SamplingConfig(temperature=0.0), SamplingConfig(), SamplingConfig(top_k=2, top_p=0.5, min_p=0.1)],
    ids=["greedy", "warm", "truncated"],
)
def test_nan_logits(cfg):
    """NaN counts as minus infinity when choosing, and shows in the log-probability; a row of nothing else gives 0."""
    nan, inf = np.nan, np.inf
    rows = [[nan, 1.0, 30.0, nan], [nan] * 4, [-inf] * 4, [0.0, -inf, 30.0, -inf], [0.0, inf, 1.0, nan]]
    tokens, logp = jax.jit(sample, static_argnames="cfg")(jax.random.key(0), jnp.array(rows), cfg=cfg)
    assert tokens.tolist() == [2, 0, 0, 2, 1]
    assert np.isnan(logp).tolist() == [True, True, True, False, True] and logp[3] == 0.0


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_no_temperature_is_too_low(temperature):
    logits = jnp.array([[1.0, 30.0, 29.9], [-5.0, -7.0, -5.5]])
    tokens, _ = sample(jax.random.key(0), logits, SamplingConfig(temperature=temperature, top_p=0.9))
    assert tokens.tolist() == [1, 0]


@pytest.mark.parametrize("vocab", [1, 5, BLOCK - 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 7])
def test_best_is_argmax(vocab):
    logits = jnp.round(jax.random.normal(jax.random.key(0), (4, 3, vocab)) * 2)  # with many equals
    np.testing.assert_array_equal(best(logits), jnp.argmax(logits, axis=-1))
    assert best(logits).dtype == jnp.int32


def test_draws_over_many_blocks_follow_the_probabilities():
    """Over 50,000 draws of 1,000 tokens, 700 of them possible.

    Pearson's statistic of a right sampler is chi-square with 699 degrees of freedom; by Laurent and Massart (2000,
    lemma 1) it exceeds 699 + 2 sqrt(699 x) + 2 x, x = 13.8, with probability at most 1e-6.
    """
    rng = np.random.default_rng(0)
    logits = np.where(rng.permutation(1000) < 700, rng.normal(size=1000) * 0.5, NEVER).astype(np.float32)
    tokens = jax.jit(draw)(jax.random.key(0), jnp.broadcast_to(jnp.asarray(logits), (50_000, 1000)))
    found, want = np.bincount(tokens, minlength=1000), np.exp(logits.astype(np.float64))
    want *= 50_000 / want.sum()
    assert not found[want == 0].any() and want[want > 0].min() > 5
    statistic = ((found - want)[want > 0] ** 2 / want[want > 0]).sum()
    assert statistic < 699 + 2 * np.sqrt(699 * 13.8) + 2 * 13.8


def test_a_key_for_each_row_makes_its_draw_its_own():
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    logits = jax.random.normal(jax.random.key(1), (2, 3, 600))
    fresh = jax.jit(functools.partial(sample, cfg=SamplingConfig(top_p=0.9)))
    tokens, _ = fresh(keys, logits)
    for b, g in np.ndindex(2, 3):
        assert fresh(keys[b, g][None], logits[b, g][None])[0][0] == tokens[b, g]
    assert len(np.unique(tokens)) > 3


def test_jit_equals_eager_and_compiles_once():
    cfg = SamplingConfig(temperature=0.7, top_k=400, top_p=0.95, min_p=0.01)
    fresh = jax.jit(lambda x: kept_logits(x, cfg))
    for seed in range(2):
        logits = jax.random.normal(jax.random.key(seed), (2, 2, 600)) * 3
        np.testing.assert_allclose(fresh(logits), kept_logits(logits, cfg), rtol=1e-5, atol=1e-5)
    assert fresh._cache_size() == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9 and max_new_tokens 8"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"frequency_penalty": -2.1}, "frequency_penalty is -2.1"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"stop": "end"}, "stop is 'end'"),
        ({"stop": ("end", "")}, r"stop is \('end', ''\)"),
    ],
)
def test_bad_values_are_named(changes, named):
    with pytest.raises(UserError, match=named) as raised:
        SamplingConfig(**changes)
    assert "\n" not in str(raised.value)


def test_greedy_with_truncation_is_harmless():
    logits = jax.random.normal(jax.random.key(0), (4, 50))
    plain = sample(jax.random.key(0), logits, SamplingConfig(temperature=0.0))
    cut = sample(jax.random.key(1), logits, SamplingConfig(temperature=0.0, top_k=3, top_p=0.1, min_p=0.9))
    jax.tree.map(np.testing.assert_array_equal, plain, cut)


def test_config_is_hashable_and_frozen():
    assert hash(SamplingConfig(stop=("a",))) == hash(SamplingConfig(stop=("a",)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingConfig().top_k = 3
