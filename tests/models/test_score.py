"""Log-probabilities of completions against a log-softmax over the repeated form, written out here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.score import completion_logprobs, completion_statistics
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config("mistral")
BASE = tiny_base(jax.random.key(0), CFG, QuantConfig())
ADAPTERS = tiny_adapters(jax.random.key(1), BASE, dropout=0.5)
PROMPTS = ragged(0, (2, 5), CFG.vocab_size)
COMPLETIONS = ragged(1, (1, 4, 3, 4, 2, 1), CFG.vocab_size)
ARRAYS = (*pad(PROMPTS, 6, "left", fill=3), *(x.reshape(2, 3, 4) for x in pad(COMPLETIONS, 4, "right", fill=3)))
STATIC = ("temperature", "chunk", "with_entropy")
score = jax.jit(functools.partial(completion_logprobs, cfg=CFG), static_argnames=STATIC)


@functools.cache
def by_hand(temperature):
    """Logp and entropy of each completion's tokens, from one row ``prompt + completion`` of its own."""
    places, scores = rows_by_hand()
    logp = np.asarray(jax.nn.log_softmax(scores / temperature, axis=-1), np.float64)
    entropy = -(np.exp(logp) * logp).sum(-1)
    return np.array([logp[place] for place in places]), np.array([entropy[i, t] for i, t, _ in places])


@functools.cache
def rows_by_hand():
    """Place and token of each completion's tokens, and the logits of those rows."""
    rows = [np.concatenate([PROMPTS[i // 3], completion]) for i, completion in enumerate(COMPLETIONS)]
    tokens, mask = pad(rows, 9, "right")
    scores = jax.jit(lambda: logits(BASE, forward(BASE, ADAPTERS, tokens, mask, CFG)))()
    starts = [len(PROMPTS[i // 3]) - 1 for i in range(6)]
    places = [(i, starts[i] + c, token) for i, row in enumerate(COMPLETIONS) for c, token in enumerate(row)]
    return places, scores


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_logp_and_entropy(temperature):
    logp, entropy = score(BASE, ADAPTERS, *ARRAYS, temperature=temperature, with_entropy=True)
    want_logp, want_entropy = by_hand(temperature)
    mask = ARRAYS[3]
    assert logp.shape == entropy.shape == mask.shape and logp.dtype == entropy.dtype == jnp.float32
    assert np.isfinite(logp).all() and np.isfinite(entropy).all()
    np.testing.assert_allclose(logp[mask], want_logp, atol=3e-5)
    np.testing.assert_allclose(entropy[mask], want_entropy, atol=3e-5)
    assert want_entropy.std() > 0.1 and (want_entropy < np.log(CFG.vocab_size)).all()


def test_what_else_the_logits_say():
    logp, seen = jax.jit(functools.partial(completion_statistics, cfg=CFG, chunk=7))(BASE, ADAPTERS, *ARRAYS)
    (places, scores), (want_logp, want_entropy), mask = rows_by_hand(), by_hand(1.0), ARRAYS[3]
    z = np.array([scores[i, t] for i, t, _ in places], np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(logp[mask], want_logp, atol=3e-5)
    np.testing.assert_allclose(seen.entropy[mask], want_entropy, atol=3e-5)
    np.testing.assert_allclose(seen.log_collision[mask], np.log((p**2).sum(-1)), atol=5e-5)
    np.testing.assert_allclose(seen.mean_logit[mask], z.mean(-1), atol=3e-5)
    assert seen.correct[mask].tolist() == [bool(row.argmax() == token) for row, (_, _, token) in zip(z, places)]


def test_temperature_zero_scores_as_temperature_one():
    greedy, _ = score(BASE, ADAPTERS, *ARRAYS, temperature=0.0)
    np.testing.assert_allclose(greedy[ARRAYS[3]], by_hand(1.0)[0], atol=3e-5)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_nothing(chunk):
    logp, entropy = score(BASE, ADAPTERS, *ARRAYS, chunk=chunk)
    assert entropy is None
    np.testing.assert_allclose(logp[ARRAYS[3]], by_hand(1.0)[0], atol=3e-5)


def test_what_stands_in_the_padding_changes_nothing():
    prompts, prompt_mask, completions, mask = ARRAYS
    other = (jnp.where(prompt_mask, prompts, 9), prompt_mask, jnp.where(mask, completions, 9), mask)
    one, two = (score(BASE, ADAPTERS, *arrays)[0] for arrays in (ARRAYS, other))
    np.testing.assert_array_equal(one[mask], two[mask])


def test_dropout_only_with_a_key():
    on, _ = score(BASE, ADAPTERS, *ARRAYS, dropout_key=jax.random.key(0))
    assert np.abs(on[ARRAYS[3]] - by_hand(1.0)[0]).max() > 1e-2


def test_gradient_equals_that_of_the_repeated_form():
    mask = ARRAYS[3].astype(jnp.float32)
    weights = jax.random.normal(jax.random.key(3), mask.shape) * mask
    rows = [np.concatenate([PROMPTS[i // 3], completion]) for i, completion in enumerate(COMPLETIONS)]
    tokens, row_mask = pad(rows, 9, "right")
    starts = np.array([len(PROMPTS[i // 3]) - 1 for i in range(6)])
    index = np.minimum(starts[:, None] + np.arange(4), 7)

    def shared(adapters):
        logp, _ = completion_logprobs(BASE, adapters, *ARRAYS, CFG, temperature=0.7, remat="full")
        return jnp.sum(logp * weights)

    def repeated(adapters):
        scores = logits(BASE, forward(BASE, adapters, tokens, row_mask, CFG)) / 0.7
        logp = jax.nn.log_softmax(scores, axis=-1)[jnp.arange(6)[:, None], index, ARRAYS[2].reshape(6, 4)]
        return jnp.sum(logp.reshape(mask.shape) * weights)

    found, want = (jax.jit(jax.grad(f))(ADAPTERS) for f in (shared, repeated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-5), found, want)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want)) > 0.1
