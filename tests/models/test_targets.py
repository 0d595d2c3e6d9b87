"""Scores of a row's targets: those of its tokens one by one, whatever stands beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import FullConfig, PromptConfig
from lqlm.adapters.init import init_adapters
from lqlm.models.targets import target_scores
from lqlm.models.transformer import forward, logits
from tests.tiny import ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config()


@pytest.fixture(scope="module")
def base():
    return tiny_base(jax.random.key(0), CFG)


def packed_rows(texts, length):
    tokens, segments = np.zeros((1, length), np.int32), np.zeros((1, length), np.int32)
    start = 0
    for number, text in enumerate(texts, start=1):
        place = slice(start, start + len(text))
        tokens[0, place], segments[0, place], start = text, number, start + len(text)
    first = np.diff(segments, axis=-1, prepend=0) != 0
    return jnp.asarray(tokens), jnp.asarray(segments), jnp.asarray((segments > 0) & ~first)


@pytest.mark.parametrize("adapted", [False, True])
def test_each_packed_text_scores_as_alone(base, adapted):
    adapters = tiny_adapters(jax.random.key(1), base) if adapted else None
    texts = ragged(0, (5, 3, 6), CFG.vocab_size)
    found = target_scores(base, adapters, *packed_rows(texts, 16), CFG, chunk=4)
    start = 0
    for text in texts:
        alone = jnp.asarray(text)[None]
        logp = jax.nn.log_softmax(logits(base, forward(base, adapters, alone, jnp.ones(alone.shape, bool), CFG))[0])
        want = np.asarray(logp)[np.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(found.logp[0, start + 1 : start + len(text)], want, rtol=1e-4, atol=1e-5)
        assert found.logp[0, start] == 0  # a text's first token follows nothing
        start += len(text)
    assert not found.logp[0, start:].any() and not found.correct[0, start:].any()


def test_full_training_is_bound(base):
    rows = packed_rows(ragged(1, (4, 5), CFG.vocab_size), 12)
    empty, adapters = init_adapters(jax.random.key(0), base, FullConfig())
    assert not empty
    np.testing.assert_array_equal(
        target_scores(empty, adapters, *rows, CFG).logp, target_scores(base, None, *rows, CFG).logp
    )


def test_virtual_tokens_shift_nothing(base):
    rows = packed_rows(ragged(2, (4, 5), CFG.vocab_size), 12)
    _, adapters = init_adapters(jax.random.key(0), base, PromptConfig(tokens=3))
    found = target_scores(base, adapters, *rows, CFG)
    assert found.logp.shape == (1, 12)
    np.testing.assert_array_equal(found.logp != 0, rows[2])
