"""Prompt and prefix tuning against embeddings and keys concatenated by hand, in every way the model is run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.attention import attention
from lqlm.models.groups import decode_step, forward_groups, prefill
from lqlm.models.layers import rms_norm, rope_tables, rotate
from lqlm.models.transformer import forward
from tests.tiny import pad, ragged, tiny_base, tiny_config

VIRTUAL = 3
CFGS = {"llama": tiny_config("llama"), "mistral": tiny_config("mistral", sliding_window=4)}
OF_BOTH_KINDS = pytest.mark.parametrize("kind", ["prompt", "prefix"])
EVERY = pytest.mark.parametrize(
    ("kind", "family"), [("prompt", "llama"), ("prefix", "llama"), ("prompt", "mistral"), ("prefix", "mistral")]
)
run = jax.jit(forward, static_argnames=("cfg", "remat"))


@functools.cache
def model(family):
    return CFGS[family], tiny_base(jax.random.key(0), CFGS[family])


def adapters(kind, cfg, seed=1):
    key = jax.random.key(seed)
    if kind == "prompt":
        return {"prompt": 0.5 * jax.random.normal(key, (VIRTUAL, cfg.width))}
    k, v = jax.random.normal(key, (2, cfg.layers, VIRTUAL, cfg.kv_heads * cfg.head_dim))
    return {"prefix": {"k": k, "v": v}}


@functools.partial(jax.jit, static_argnames="cfg")
def by_hand(base, adapters, row, cfg):
    """Hidden states of one row without padding: virtual tokens put before it, layer after layer, in plain code."""
    x = base["embed"][row]
    x = jnp.concatenate([adapters["prompt"], x]) if "prompt" in adapters else x
    before = 0 if "prompt" in adapters else VIRTUAL
    place = jnp.arange(before + len(x))
    tables = rope_tables(place[before:], cfg)
    ahead = place[before:, None] - place[None]
    seen = (ahead >= 0) & (ahead < (cfg.sliding_window or 99))
    for layer in range(cfg.layers):
        w = {name: stack[layer] for name, stack in base["layers"].items()}
        h = rms_norm(x, w["input_norm"], cfg.norm_eps)
        q, k, v = ((h @ w[f"{name}_proj"]).reshape(len(x), -1, cfg.head_dim) for name in "qkv")
        q, k = rotate(q, tables), rotate(k, tables)
        if "prefix" in adapters:
            own = (adapters["prefix"][part][layer].reshape(VIRTUAL, -1, cfg.head_dim) for part in "kv")
            k, v = (jnp.concatenate(pair) for pair in zip(own, (k, v)))
        x = x + attention(q[None], k[None], v[None], seen[None]).reshape(len(x), -1) @ w["o_proj"]
        h = rms_norm(x, w["post_norm"], cfg.norm_eps)
        x = x + (jax.nn.silu(h @ w["gate_proj"]) * (h @ w["up_proj"])) @ w["down_proj"]
    return rms_norm(x, base["norm"], cfg.norm_eps)[-len(row) :]


@EVERY
def test_forward_is_the_concatenation_whatever_the_padding(kind, family):
    cfg, base = model(family)
    tuned, rows = adapters(kind, cfg), ragged(0, (2, 6), cfg.vocab_size)
    for side in ("left", "right"):
        tokens, mask = pad(rows, 6, side, fill=5)
        found = run(base, tuned, tokens, mask, cfg=cfg)
        assert found.shape == (2, 6, cfg.width) and np.isfinite(found).all()
        for i, row in enumerate(rows):
            want = by_hand(base, tuned, jnp.asarray(row), cfg)
            np.testing.assert_allclose(found[i][mask[i]], want, rtol=1e-4, atol=1e-5)
    assert np.abs(found - run(base, None, tokens, mask, cfg=cfg))[mask].max() > 0.1


def weighed(hidden):
    """A number that no exchange of rows or places leaves alone."""
    return jnp.sum(jnp.sin(hidden) * jax.random.normal(jax.random.key(9), hidden.shape))


@EVERY
def test_packed_texts_equal_texts_alone_in_value_and_gradient(kind, family):
    cfg, base = model(family)
    tuned, rows = adapters(kind, cfg), ragged(1, (3, 4, 2), cfg.vocab_size)
    packed = jnp.asarray(np.concatenate([*rows, [0]]))[None]
    segments = jnp.array([[1] * 3 + [2] * 4 + [3] * 2 + [0]], jnp.int32)
    tokens, mask = pad(rows, 4, "right")

    def together(tuned):
        hidden = forward(base, tuned, packed, segments > 0, cfg, segments_BT=segments)[0, :9]
        return weighed(hidden), hidden

    def alone(tuned):
        hidden = forward(base, tuned, tokens, mask, cfg)
        hidden = jnp.concatenate([hidden[i, : len(row)] for i, row in enumerate(rows)])
        return weighed(hidden), hidden

    (_, found), found_grad = jax.jit(jax.value_and_grad(together, has_aux=True))(tuned)
    (_, want), want_grad = jax.jit(jax.value_and_grad(alone, has_aux=True))(tuned)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), found_grad, want_grad)
    for leaf in jax.tree.leaves(want_grad):  # every virtual token, in every layer, is trained
        assert (np.abs(leaf).max(-1) > 1e-4).all()


def groups(cfg):
    """Two ragged prompts, two ragged completions of each."""
    prompts, prompt_mask = pad(ragged(5, (2, 4), cfg.vocab_size), 4, "left", fill=2)
    rows, mask = pad(ragged(6, (3, 1, 2, 3), cfg.vocab_size), 3, "right", fill=2)
    return prompts, prompt_mask, rows.reshape(2, 2, 3), mask.reshape(2, 2, 3)


@EVERY
def test_groups_and_decoding_equal_plain_rows(kind, family):
    cfg, base = model(family)
    tuned, (prompts, prompt_mask, completions, mask) = adapters(kind, cfg), groups(cfg)
    rows = jnp.concatenate([jnp.repeat(prompts, 2, axis=0), completions.reshape(4, 3)], axis=1)
    rows_mask = jnp.concatenate([jnp.repeat(prompt_mask, 2, axis=0), mask.reshape(4, 3)], axis=1)
    want = run(base, tuned, rows, rows_mask, cfg=cfg)[:, 3:6].reshape(2, 2, 3, -1)
    found = jax.jit(functools.partial(forward_groups, cfg=cfg))(base, tuned, prompts, prompt_mask, completions, mask)
    np.testing.assert_allclose(found[mask], want[mask], rtol=1e-4, atol=1e-5)

    last, prefix = jax.jit(functools.partial(prefill, cfg=cfg))(base, tuned, prompts, prompt_mask)
    np.testing.assert_allclose(last, want[:, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(prefix.length_B, prompt_mask.sum(1) + VIRTUAL)
    own = tuple(jnp.zeros((cfg.layers, 2, 2, 3, cfg.kv_heads, cfg.head_dim)) for _ in "kv")
    step = jax.jit(functools.partial(decode_step, cfg=cfg))
    for c in (0, 1):
        hidden, own = step(base, tuned, completions[:, :, c], jnp.int32(c), prefix, own)
        real = np.asarray(mask[:, :, c + 1])
        np.testing.assert_allclose(hidden[real], want[:, :, c + 1][real], rtol=1e-4, atol=1e-5)


@OF_BOTH_KINDS
def test_every_token_sees_all_virtual_ones_and_no_later_token(kind):
    cfg, base = model("llama")
    tuned = adapters(kind, cfg)
    tokens, mask = jnp.arange(5, dtype=jnp.int32)[None], jnp.ones((1, 5), bool)

    def hidden(tuned, embed):
        return forward({**base, "embed": embed}, tuned, tokens, mask, cfg)[0, :, 0]

    by_virtual, by_token = jax.jit(jax.jacrev(hidden, argnums=(0, 1)))(tuned, base["embed"])
    virtual = by_virtual["prompt"] if kind == "prompt" else by_virtual["prefix"]["v"][:, 0]
    assert (np.abs(virtual).max(-1) > 1e-7).all() and virtual.shape[:2] == (5, VIRTUAL)
    reach = np.abs(by_token[:, :5]).max(-1)
    np.testing.assert_array_equal(reach > 0, np.tri(5, dtype=bool))


@OF_BOTH_KINDS
def test_remat_changes_nothing(kind):
    cfg, base = model("llama")
    tokens, mask = pad(ragged(0, (2, 4), cfg.vocab_size), 4, "left")

    def gradient(remat):
        loss = lambda tuned: jnp.sum(jnp.sin(forward(base, tuned, tokens, mask, cfg, remat=remat)))  # noqa: E731
        return jax.jit(jax.grad(loss))(adapters(kind, cfg))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient("full"), gradient("none")
    )
