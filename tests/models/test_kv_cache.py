"""Formats of the cache: errors within bounds, and decoding from each of them against the trainer's forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lqlm.models.groups import decode_step, empty_own, forward_groups, prefill
from lqlm.models.kv_cache import Scaled, bytes_per_token, cache_bytes, read, storage_type, store, type_of, write, zeros
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

FORMATS = ("model", "bfloat16", "fp8", "int8")
# Half a step of rounding, as a share of the number itself and of the vector's largest.
STEPS = {"model": (0.0, 0.0), "bfloat16": (2**-8, 0.0), "fp8": (2**-4, 2**-10 / 448), "int8": (0.0, 0.5 / 127)}
VECTORS = hnp.arrays(
    np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: not 0 < abs(x) < 1e-3)
)


@pytest.mark.parametrize("cache", FORMATS)
@given(x=VECTORS)
def test_what_is_read_is_what_was_stored_but_for_half_a_step(cache, x):
    kv = store(jnp.asarray(x), storage_type(cache, jnp.float32))
    found = np.asarray(read(kv, jnp.float32))
    share, least = STEPS[cache]
    bound = share * np.abs(x) + least * np.abs(x).max(-1, keepdims=True)
    assert found.dtype == np.float32 and (np.abs(found - x) <= bound * (1 + 1e-5)).all()
    assert type_of(kv) == storage_type(cache, jnp.float32)
    assert isinstance(kv, Scaled) == (cache in ("fp8", "int8"))
    again = store(read(kv, jnp.float32), type_of(kv))
    np.testing.assert_allclose(read(again, jnp.float32), found, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cache", FORMATS)
def test_numbers_that_are_not_finite_do_not_go_unseen(cache, bad):
    kv = store(jnp.array([[1.0, bad, 2.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), storage_type(cache, jnp.float32))
    found = np.asarray(read(kv, jnp.float32))
    assert not np.isfinite(found[0]).all() and np.isfinite(found[1]).all() and not found[2].any()


@pytest.mark.parametrize("cache", FORMATS)
def test_a_step_of_each_sample_writes_as_a_step_for_all(cache):
    shape = (2, 3, 2, 4, 2, 5)  # [L, B, G, S, K, H]
    empty = zeros(shape, storage_type(cache, jnp.float32))
    new = jax.random.normal(jax.random.key(0), (3, 2, 2, 5))
    one = write(empty, new, jnp.int32(1), jnp.int32(2))
    for step in (jnp.full((3, 2), 2), jnp.full((3, 1), 2)):
        jax.tree.map(np.testing.assert_array_equal, write(empty, new, jnp.int32(1), step), one)
    steps = np.array([[0, 3], [1, 1], [2, 4]])
    found = np.asarray(read(write(empty, new, jnp.int32(1), jnp.asarray(steps)), jnp.float32))
    want = np.zeros(shape, np.float32)
    for (row, sample), step in np.ndenumerate(steps):
        if step < 4:  # beyond the end nothing is written
            want[1, row, sample, step] = read(store(new[row, sample], type_of(empty)), jnp.float32)
    np.testing.assert_array_equal(found, want)


def test_bytes():
    cfg = tiny_config()
    base = tiny_base(jax.random.key(0), cfg)
    for cache, number, scale in (("model", 4, 0), ("bfloat16", 2, 0), ("fp8", 1, 4), ("int8", 1, 4)):
        tokens, mask = pad(ragged(0, (4, 4), 23), 4, "left")
        _, prefix = prefill(base, None, tokens, mask, cfg, cache=cache)
        each = bytes_per_token(cfg, cache, jnp.float32)
        assert each == 2 * cfg.layers * cfg.kv_heads * (cfg.head_dim * number + scale)
        assert cache_bytes((prefix.k_LBPKH, prefix.v_LBPKH)) == 8 * each
        assert cache_bytes(empty_own(prefix, 3, 5, cfg)) == 30 * each
    assert empty_own(prefix, 3, 0, cfg).k_LBGSKH.codes.shape[3] == 1


PROMPTS = pad(ragged(0, (2, 5, 1), 23), 5, "left")
COMPLETIONS = pad(ragged(1, (4,) * 6, 23), 4, "right")[0].reshape(3, 2, 4)


@functools.cache
def model(family):
    cfg = tiny_config(family)
    base = tiny_base(jax.random.key(0), cfg)
    adapters = tiny_adapters(jax.random.key(1), base)
    mask = jnp.ones(COMPLETIONS.shape, bool)
    hidden = jax.jit(functools.partial(forward_groups, cfg=cfg))(base, adapters, *PROMPTS, COMPLETIONS, mask)
    return cfg, base, adapters, hidden


@functools.partial(jax.jit, static_argnames=("cfg", "cache"))
def decode(base, adapters, delays_B, cfg, cache):
    """Hidden states after each of three tokens, each prompt's samples so many calls later."""
    _, prefix = prefill(base, adapters, *PROMPTS, cfg, cache=cache)
    own = empty_own(prefix, 2, 3, cfg)
    delays = delays_B if delays_B.ndim == 0 else delays_B[:, None]
    out = jnp.zeros((3, 2, 8, cfg.width))

    def call(carry, i):
        own, out = carry
        step = i - delays
        place = jnp.broadcast_to(jnp.clip(step, 0, 2), (3, 2))
        tokens = jnp.take_along_axis(COMPLETIONS, place[..., None], axis=2)[..., 0]
        hidden, own = decode_step(base, adapters, tokens, step if step.ndim == 0 else step[:, 0], prefix, own, cfg)
        return (own, out.at[:, :, i].set(hidden)), None

    (_, out), _ = jax.lax.scan(call, (own, out), jnp.arange(5, dtype=jnp.int32))
    places = jnp.broadcast_to(delays, (3, 1))[:, :, None] + jnp.arange(3, dtype=jnp.int32)[None, None]
    return jnp.take_along_axis(out, jnp.broadcast_to(places, (3, 2, 3))[..., None], axis=2)


@pytest.mark.parametrize(
    ("family", "cache", "atol"),
    [("mistral", "model", 2e-5), ("llama", "bfloat16", 0.05), ("llama", "fp8", 0.8), ("llama", "int8", 0.12)],
)
def test_slots_at_steps_of_their_own_decode_what_the_trainer_computes(family, cache, atol):
    cfg, base, adapters, hidden = model(family)
    found = decode(base, adapters, jnp.array([0, 2, 1], jnp.int32), cfg=cfg, cache=cache)
    error = np.abs(np.asarray(found - hidden[:, :, 1:]))
    assert error.max() < atol and (cache == "model" or error.max() > atol / 10)
    if cache == "int8":
        together = decode(base, adapters, jnp.int32(0), cfg=cfg, cache=cache)
        np.testing.assert_allclose(together, found, atol=1e-5)


def test_samples_of_one_prompt_at_steps_of_their_own():
    cfg, base, adapters, hidden = model("mistral")
    _, prefix = prefill(base, adapters, *PROMPTS, cfg)
    step = jax.jit(functools.partial(decode_step, cfg=cfg))
    own = empty_own(prefix, 2, 3, cfg)
    for i in range(4):
        at = jnp.array([[i, i - 1]] * 3, jnp.int32)  # the second sample is one behind
        tokens = jnp.take_along_axis(COMPLETIONS, jnp.maximum(at, 0)[..., None], axis=2)[..., 0]
        out, own = step(base, adapters, tokens, at, prefix, own)
        for sample in range(2):
            if 0 <= i - sample < 3:
                np.testing.assert_allclose(out[:, sample], hidden[:, sample, i - sample + 1], atol=2e-5)
