"""The scalar head against a plain forward pass and a product written out here."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.models.heads import (
    completion_scores,
    completion_values,
    init_scalar_head,
    last_real,
    scalars,
    sequence_scores,
)
from lqlm.models.transformer import forward
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config("mistral")
BASE = tiny_base(jax.random.key(0), CFG, QuantConfig())
HEAD = {"kernel": init_scalar_head(jax.random.key(2), CFG.width)["kernel"], "bias": jnp.asarray(0.3)}
TREE = {**tiny_adapters(jax.random.key(1), BASE, dropout=0.5), "score": HEAD}
PROMPTS = ragged(0, (2, 5), CFG.vocab_size)
COMPLETIONS = ragged(1, (1, 4, 3, 4, 2, 1), CFG.vocab_size)
ROWS = [np.concatenate([PROMPTS[i // 3], completion]) for i, completion in enumerate(COMPLETIONS)]
GROUPS = (*pad(PROMPTS, 6, "left", fill=3), *(x.reshape(2, 3, 4) for x in pad(COMPLETIONS, 4, "right", fill=3)))
score_rows = jax.jit(functools.partial(sequence_scores, cfg=CFG))
score_groups = jax.jit(functools.partial(completion_scores, cfg=CFG))
values_of = jax.jit(functools.partial(completion_values, cfg=CFG))


@functools.cache
def by_hand():
    """The head's number at every token of every row alone, ``[6, 9]``, padded on the right."""
    hidden = jax.jit(lambda: forward(BASE, TREE, *pad(ROWS, 9, "right"), CFG))()
    return np.asarray(hidden, np.float64) @ np.asarray(HEAD["kernel"], np.float64) + 0.3


def last_of_each():
    return by_hand()[np.arange(6), [len(row) - 1 for row in ROWS]]


def test_a_new_head():
    head = init_scalar_head(jax.random.key(0), 4096)
    chex.assert_shape(head["kernel"], (4096,))
    chex.assert_trees_all_equal_dtypes(head, {"kernel": jnp.zeros((), jnp.float32), "bias": jnp.zeros((), jnp.float32)})
    assert abs(float(head["kernel"].std()) * 4097**0.5 - 1) < 0.05 and head["bias"] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_scalars_are_float32(dtype):
    hidden = jax.random.normal(jax.random.key(0), (2, 3, CFG.width)).astype(dtype)
    found = scalars(HEAD, hidden)
    assert found.shape == (2, 3) and found.dtype == jnp.float32
    want = np.asarray(hidden, np.float64) @ np.asarray(HEAD["kernel"], np.float64) + 0.3
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_last_real(side):
    tokens, mask = pad(ragged(0, (1, 3, 5), 90), 5, side)
    want = [row[-1] for row in ragged(0, (1, 3, 5), 90)]
    np.testing.assert_array_equal(last_real(tokens, mask), want)
    deep = jnp.stack([tokens, 2 * tokens], axis=-1)
    np.testing.assert_array_equal(last_real(deep, mask), np.stack([want, 2 * np.array(want)], -1))


def test_last_real_of_nothing_is_zero_and_looks_at_no_value():
    x, mask = jnp.array([[jnp.nan, 1.0], [2.0, jnp.nan]]), jnp.array([[False, False], [True, False]])
    np.testing.assert_array_equal(last_real(x, mask), [0.0, 2.0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fill", [0, 9])
def test_sequence_scores_with_padding_on_either_side(side, fill):
    found = score_rows(BASE, TREE, *pad(ROWS, 11, side, fill=fill))
    assert found.shape == (6,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, last_of_each(), atol=3e-5)


def test_a_row_of_padding_scores_the_bias():
    tokens, mask = pad(ROWS, 9, "right")
    found = score_rows(BASE, TREE, tokens, mask.at[2].set(False))
    np.testing.assert_allclose(found[2], 0.3, atol=1e-7)
    np.testing.assert_allclose(np.delete(found, 2), np.delete(last_of_each(), 2), atol=3e-5)


def test_values_of_groups_are_those_of_separate_rows():
    found = np.asarray(values_of(BASE, TREE, *GROUPS)).reshape(6, 4)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    for i, completion in enumerate(COMPLETIONS):
        start = len(PROMPTS[i // 3]) - 1
        np.testing.assert_allclose(
            found[i, : len(completion)], by_hand()[i, start : start + len(completion)], atol=3e-5
        )


def test_scores_of_groups_are_those_of_separate_rows():
    found = score_groups(BASE, TREE, *GROUPS)
    assert found.shape == (2, 3) and found.dtype == jnp.float32
    np.testing.assert_allclose(found.reshape(-1), last_of_each(), atol=3e-5)


def test_an_empty_completion_scores_its_prompt():
    found = score_groups(BASE, TREE, *GROUPS[:3], jnp.zeros_like(GROUPS[3]))
    want = score_rows(BASE, TREE, *pad(PROMPTS, 11, "right"))
    np.testing.assert_allclose(found, np.repeat(want[:, None], 3, axis=1), atol=3e-5)


def test_jit_equals_eager():
    """One layer, one row: every operation is compiled by itself."""
    cfg = tiny_config(layers=1)
    base, rows = tiny_base(jax.random.key(0), cfg), [x[:1] for x in GROUPS]
    tree = {**tiny_adapters(jax.random.key(1), base), "score": HEAD}
    compiled = jax.jit(functools.partial(completion_scores, cfg=cfg))(base, tree, *rows)
    np.testing.assert_allclose(compiled, completion_scores(base, tree, *rows, cfg), atol=3e-5)


def test_the_head_alone_scores_the_base():
    found = score_rows(BASE, {"score": HEAD}, *pad(ROWS, 11, "right"))
    hidden = jax.jit(lambda: forward(BASE, None, *pad(ROWS, 11, "right"), CFG))()
    np.testing.assert_allclose(found, scalars(HEAD, hidden)[np.arange(6), [len(r) - 1 for r in ROWS]], atol=3e-5)
    assert np.abs(found - last_of_each()).max() > 1e-2


@pytest.mark.parametrize("tree", [None, {}, {"layers": {}}])
def test_a_tree_without_a_head_is_refused(tree):
    with pytest.raises(UserError, match='no scalar head: put one under the key "score"'):
        sequence_scores(BASE, tree, *pad(ROWS, 9, "right"), CFG)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradient_reaches_head_and_adapters_and_equals_that_of_rows(remat):
    weights = jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.7, -1.1]])
    tokens, mask = pad(ROWS, 11, "left")

    def shared(tree):
        return jnp.sum(weights * completion_scores(BASE, tree, *GROUPS, CFG, remat=remat))

    def rows(tree):
        return jnp.sum(weights.reshape(-1) * sequence_scores(BASE, tree, tokens, mask, CFG))

    found, want = (jax.jit(jax.grad(f))(TREE) for f in (shared, rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, want)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found))


def test_gradient_of_values_reaches_every_leaf():
    def loss(tree):
        return jnp.sum(jnp.where(GROUPS[3], jnp.sin(completion_values(BASE, tree, *GROUPS, CFG)), 0.0))

    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(TREE)))


def test_dropout_only_with_a_key():
    on = score_groups(BASE, TREE, *GROUPS, dropout_key=jax.random.key(0))
    assert np.abs(on.reshape(-1) - last_of_each()).max() > 1e-2
