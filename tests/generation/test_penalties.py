"""Penalties against a plain loop over the tokens so far, and the state that knows them."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.penalties import count_penalty, repeat_penalty
from lqlm.generation.sampling import SamplingConfig, add_seen, kept_logits, sample, start_seen

VOCAB, PAD = 7, 5
PROMPTS = np.array([[PAD, PAD, 1, 2], [3, 3, 0, 6]], np.int32)
PROMPT_MASK = np.array([[False, False, True, True], [True] * 4])
ALL = SamplingConfig(presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.7)
LOGITS = jax.random.normal(jax.random.key(0), (2, 3, VOCAB)) * 3


def reference(logits, prompt, generated, cfg):
    """One sample, one token at a time, in Python floats."""
    out = [float(z) for z in logits]
    for token in range(len(out)):
        count = generated.count(token)
        if count or token in prompt:
            out[token] = out[token] / cfg.repetition_penalty if out[token] > 0 else out[token] * cfg.repetition_penalty
        out[token] -= cfg.frequency_penalty * count + cfg.presence_penalty * (count > 0)
    return out


def seen_after(cfg, tokens_BGC, alive_BGC):
    seen = start_seen(cfg, jnp.asarray(PROMPTS), jnp.asarray(PROMPT_MASK), tokens_BGC.shape[1], VOCAB)
    for t in range(tokens_BGC.shape[2]):
        seen = add_seen(seen, jnp.asarray(tokens_BGC[..., t]), jnp.asarray(alive_BGC[..., t]))
    return seen


TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=24, max_size=24)
LENGTHS = st.lists(st.integers(0, 4), min_size=6, max_size=6)


@hypothesis.given(TOKENS, LENGTHS, st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 3.0))
def test_equals_a_loop_over_the_tokens_so_far(tokens, lengths, presence, frequency, repetition):
    cfg = SamplingConfig(
        temperature=0.0, presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition
    )
    tokens = np.array(tokens, np.int32).reshape(2, 3, 4)
    alive = np.arange(4) < np.array(lengths).reshape(2, 3, 1)
    if not cfg.penalized:
        return
    found = kept_logits(LOGITS, cfg, seen_after(cfg, tokens, alive))
    for b in range(2):
        prompt = PROMPTS[b][PROMPT_MASK[b]].tolist()
        for g in range(3):
            want = reference(LOGITS[b, g], prompt, tokens[b, g][alive[b, g]].tolist(), cfg)
            np.testing.assert_allclose(found[b, g], want, rtol=1e-5, atol=1e-5)


def test_by_hand():
    tokens = np.array([[[4, 4]]] * 2, np.int32)
    seen = seen_after(ALL, tokens, np.ones(tokens.shape, bool))
    logits = jnp.broadcast_to(jnp.array([2.0, 2.0, -2.0, 2.0, 2.0, 2.0, -2.0]), (2, 1, VOCAB))
    # The first prompt is 1, 2 (and padding), the second 3, 3, 0, 6; both went on with 4, 4.
    repeated = repeat_penalty(logits, seen, 2.0)
    np.testing.assert_array_equal(repeated[0, 0], [2.0, 1.0, -4.0, 2.0, 1.0, 2.0, -2.0])
    np.testing.assert_array_equal(repeated[1, 0], [1.0, 2.0, -2.0, 1.0, 1.0, 2.0, -4.0])
    counted = count_penalty(logits, seen, presence=0.5, frequency=0.25)
    np.testing.assert_array_equal(counted[0, 0], [2.0, 2.0, -2.0, 2.0, 1.0, 2.0, -2.0])  # the prompt does not count
    np.testing.assert_array_equal(counted[0], counted[1])


def test_nothing_is_held_where_no_penalty_asks_for_it():
    prompts = jnp.asarray(PROMPTS), jnp.asarray(PROMPT_MASK)
    assert start_seen(SamplingConfig(temperature=0.5, top_k=3, min_new_tokens=2), *prompts, 3, VOCAB) is None
    assert add_seen(None, jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool)) is None
    counted = start_seen(SamplingConfig(frequency_penalty=0.1), *prompts, 3, VOCAB)
    assert counted.prompt_BV is None and counted.counts_BGV.shape == (2, 3, VOCAB)
    repeated = start_seen(SamplingConfig(repetition_penalty=1.1), *prompts, 3, VOCAB)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(repeated))  # rows can be replaced one by one
    assert not repeated.prompt_BV[0, PAD] and repeated.prompt_BV[1].sum() == 3


def test_a_strong_penalty_never_repeats_and_a_negative_one_does():
    """Greedy, by the sampler itself: each step's token is counted before the next."""
    logits = jnp.broadcast_to(jnp.linspace(0.0, 1.0, VOCAB), (2, 3, VOCAB))
    for penalty, distinct in ((2.0, VOCAB), (-2.0, 1)):
        cfg = SamplingConfig(temperature=0.0, presence_penalty=penalty)
        seen = start_seen(cfg, jnp.asarray(PROMPTS), jnp.asarray(PROMPT_MASK), 3, VOCAB)
        found = []
        for _ in range(VOCAB):
            tokens, logp = sample(jax.random.key(0), logits, cfg, seen)
            seen = add_seen(seen, tokens, jnp.ones(tokens.shape, bool))
            found.append(np.asarray(tokens))
            want = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
            np.testing.assert_allclose(logp, want, atol=1e-6)  # as if there were no penalty
        assert (np.array([len(set(column)) for column in np.array(found).reshape(VOCAB, -1).T]) == distinct).all()


def test_jit_equals_eager():
    tokens = np.arange(12, dtype=np.int32).reshape(2, 3, 2) % VOCAB
    seen = seen_after(ALL, tokens, np.ones(tokens.shape, bool))
    eager = kept_logits(LOGITS, ALL, seen)
    np.testing.assert_allclose(jax.jit(kept_logits, static_argnums=1)(LOGITS, ALL, seen), eager, rtol=1e-6, atol=1e-6)


def test_a_missing_state_is_named():
    with pytest.raises(UserError, match=r"a penalty is on.*seen=start_seen"):
        sample(jax.random.key(0), LOGITS, ALL)
