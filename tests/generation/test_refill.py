"""A padded batch through the engine's slots, against `generate` and against itself with other numbers of slots."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.decode import generate
from lqlm.generation.engine import Engine
from lqlm.generation.refill import complete
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig
from lqlm.io.monitor import CompilationCounter
from lqlm.models.score import completion_logprobs
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

PAD, MOST, EOS = 22, 9, (3, 7, 11)
CFG = tiny_config()
BASE = tiny_base(jax.random.key(0), CFG)
ADAPTERS = tiny_adapters(jax.random.key(1), BASE)
WARM = SamplingConfig(max_new_tokens=MOST, temperature=0.8)
SIZES = EngineConfig(slots=2, group=3, prompt_buckets=(8,), chunk=4)
BATCH = pad(ragged(0, (2, 5, 1, 8, 3), CFG.vocab_size), 8, "left")


def sampled(sampling=WARM, key=5, batch=BATCH, **sizes):
    fitted = dataclasses.replace(SIZES, **sizes)
    engine = Engine(BASE, ADAPTERS, CFG, sampling, fitted, eos_ids=EOS, pad_id=PAD)
    return complete(engine, *batch, jax.random.key(key)), engine


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_greedy_completions_are_those_of_generate(slots):
    greedy = dataclasses.replace(WARM, temperature=0.0)
    run = jax.jit(functools.partial(generate, cfg=CFG, sampling=greedy, group=3, eos_ids=EOS, pad_id=PAD))
    want, (got, _) = run(BASE, ADAPTERS, *BATCH, jax.random.key(0)), sampled(greedy, slots=slots)
    assert got.tokens_BGC.shape == (5, 3, MOST) and got.tokens_BGC.dtype == np.int32
    np.testing.assert_array_equal(got.tokens_BGC, want.tokens_BGC)
    np.testing.assert_array_equal(got.mask_BGC, want.mask_BGC)
    np.testing.assert_allclose(got.logp_BGC, want.logp_BGC, atol=1e-5)
    assert len(set(got.mask_BGC.sum(-1)[:, 0].tolist())) > 2  # they end at different lengths


def test_samples_depend_on_the_key_and_their_row_alone():
    got, engine = sampled()
    assert engine.stats.refills == 3 and got.steps == engine.stats.steps
    for sizes in ({"slots": 5, "admit": 5}, {"slots": 1, "chunk": 1}):
        other, _ = sampled(**sizes)
        np.testing.assert_array_equal(got.tokens_BGC, other.tokens_BGC)
        np.testing.assert_allclose(got.logp_BGC, other.logp_BGC, atol=1e-5)
    first, _ = sampled(batch=(BATCH[0][:2], BATCH[1][:2]))
    np.testing.assert_array_equal(first.tokens_BGC, got.tokens_BGC[:2])
    assert (sampled(key=6)[0].tokens_BGC != got.tokens_BGC).any()
    assert len({row.tobytes() for rows in got.tokens_BGC for row in rows}) > 8


def test_log_probabilities_are_the_trainers():
    got, _ = sampled()
    score = jax.jit(functools.partial(completion_logprobs, cfg=CFG, temperature=WARM.temperature))
    want, _ = score(BASE, ADAPTERS, *BATCH, got.tokens_BGC, got.mask_BGC)
    np.testing.assert_allclose(got.logp_BGC, np.where(got.mask_BGC, want, 0.0), atol=2e-5)


def test_another_batch_compiles_nothing():
    sampled()
    other = pad(ragged(3, (7, 7, 2), CFG.vocab_size), 8, "left")
    with CompilationCounter() as counter:
        sampled(batch=other, key=9)
    assert counter.total == 0


def test_a_prompt_without_a_token_is_refused():
    tokens, mask = (np.array(x) for x in BATCH)
    mask[1] = False
    with pytest.raises(UserError, match=r"request '1' has 0 prompt tokens"):
        sampled(batch=(tokens, mask))
