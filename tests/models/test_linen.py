"""The Linen facade against the functions it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.models.linen import Transformer
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.adapters.cases import dense_base, tuned
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config("qwen2")
TOKENS, MASK = pad(ragged(0, (3, 5), CFG.vocab_size), 5, "left")


@jax.jit
def direct(base, adapters):
    return logits(base, forward(base, adapters, TOKENS, MASK, CFG))


@jax.jit
def apply(variables, rngs=None):
    return Transformer(CFG).apply(variables, TOKENS, MASK, rngs=rngs)


@pytest.mark.parametrize("quant", [None, QuantConfig()], ids=["dense", "nf4"])
def test_apply_equals_forward(quant):
    base = tiny_base(jax.random.key(0), CFG, quant)
    adapters = tiny_adapters(jax.random.key(1), base)
    found = apply({"base": base, "lora": adapters})
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, direct(base, adapters), atol=1e-6)
    reference = apply({"base": base})
    np.testing.assert_allclose(reference, direct(base, None), atol=1e-6)
    assert np.abs(found - reference).max() > 0.1


@pytest.mark.parametrize("kind", ["dora", "ia3", "prompt"])
def test_adapters_of_every_kind_may_lie_in_the_collection(kind):
    base = dense_base()
    adapters = {"prompt": 0.5 * base["embed"][:3]} if kind == "prompt" else tuned(kind)
    found = apply({"base": base, "lora": adapters})
    np.testing.assert_allclose(found, direct(base, adapters), rtol=1e-5, atol=1e-5)
    assert found.shape == (*TOKENS.shape, CFG.vocab_size)
    assert np.abs(found - direct(base, None)).max() > 0.1


def test_full_training_takes_the_head_from_the_collection_too():
    base = dense_base()
    trained = {**base, "head": 2.0 * base["head"]}
    np.testing.assert_allclose(apply({"lora": {"full": trained}}), direct(trained, None), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(apply({"base": base, "lora": {"full": trained}}), direct(trained, None), atol=1e-5)


def test_gradient_over_the_lora_collection():
    base = tiny_base(jax.random.key(0), CFG, QuantConfig())
    adapters = tiny_adapters(jax.random.key(1), base)

    def loss(lora):
        return jnp.sum(jnp.sin(Transformer(CFG, remat="full").apply({"base": base, "lora": lora}, TOKENS, MASK)))

    found = jax.jit(jax.grad(loss))(adapters)
    want = jax.jit(jax.grad(lambda adapters: jnp.sum(jnp.sin(direct(base, adapters)))))(adapters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, want)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found))


def test_dropout_needs_its_key():
    base = tiny_base(jax.random.key(0), CFG)
    variables = {"base": base, "lora": tiny_adapters(jax.random.key(1), base, dropout=0.5)}
    off = apply(variables)
    on = [apply(variables, {"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_allclose(off, direct(base, variables["lora"]), atol=1e-6)
    np.testing.assert_array_equal(on[0], on[1])
    assert np.abs(on[0] - off).max() > 1e-2 and np.abs(on[0] - on[2]).max() > 1e-2


def test_says_that_weights_are_missing():
    with pytest.raises(UserError, match='"base"'):
        Transformer(CFG).apply({}, TOKENS, MASK)
