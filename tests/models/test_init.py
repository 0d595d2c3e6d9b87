"""Random weights: a tree that the model reads, of the stated spread, whose first loss is that of guessing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.init import init_base
from lqlm.models.transformer import forward, logits
from tests.tiny import FAMILIES, tiny_base, tiny_config


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_the_leaves_of_a_loaded_model(family):
    cfg = tiny_config(family)
    shapes = jax.eval_shape(lambda key: init_base(key, cfg), jax.random.key(0))
    want = jax.eval_shape(lambda key: tiny_base(key, cfg), jax.random.key(0))
    jax.tree.map(lambda a, b: (_ for _ in ()).throw(AssertionError()) if a.shape != b.shape else None, shapes, want)
    assert jax.tree.structure(shapes) == jax.tree.structure(want)


def test_the_spread_of_weights():
    cfg = tiny_config(width=64, ffn=96, layers=8, vocab_size=128)
    base = init_base(jax.random.key(0), cfg, std=0.1)
    assert float(jnp.std(base["embed"])) == pytest.approx(0.1, rel=0.05)
    for name, w in base["layers"].items():
        want = {"o_proj": 0.025, "down_proj": 0.025}.get(name, 0.0 if name.endswith("norm") else 0.1)
        assert float(jnp.std(w)) == pytest.approx(want, rel=0.05), name
    first, second = base["layers"]["q_proj"][:2]
    assert not np.allclose(first, second)  # every layer its own


def test_a_fresh_model_guesses():
    cfg = tiny_config(width=64, vocab_size=128, max_positions=32)
    base = init_base(jax.random.key(0), cfg, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    tokens = jax.random.randint(jax.random.key(1), (2, 16), 0, 128)
    hidden = forward(base, None, tokens, jnp.ones(tokens.shape, bool), cfg)
    entropy = jax.scipy.special.entr(jax.nn.softmax(logits(base, hidden).astype(jnp.float32))).sum(-1)
    assert float(entropy.min()) > 0.98 * np.log(128)
