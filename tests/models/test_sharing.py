"""One base under several adapters, and what each remat policy keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import Ia3Config, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.errors import UserError
from lqlm.models.transformer import forward
from lqlm.quant.qtensor import QuantConfig
from lqlm.trees import tree_bytes
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

POLICIES = ("none", "full", "dots", "projections", "offload")


def four(base, policy, value, reward, tokens, mask, cfg):
    """What one step of PPO looks at: policy, reference, value and reward, all over one base."""
    run = functools.partial(forward, tokens_BT=tokens, mask_BT=mask, cfg=cfg)
    return [jnp.sum(run(base, adapters), axis=-1) for adapters in (policy, None, value, reward)]


def adapters_of(key, base):
    kinds = LoraConfig(rank=2), LoraConfig(rank=2, dora=True, targets=("q_proj",)), Ia3Config()
    return [init_adapters(key, base, kind)[1] for kind in kinds]


def test_four_forwards_over_one_base_are_those_of_each_alone():
    cfg = tiny_config()
    base = tiny_base(jax.random.key(0), cfg, QuantConfig())
    tokens, mask = pad(ragged(0, (2, 5), cfg.vocab_size), 5, "left")
    trees = [tiny_adapters(jax.random.key(i), base, rank=rank) for i, rank in enumerate((2, 3, 1))]
    found = jax.jit(functools.partial(four, cfg=cfg))(base, *trees, tokens, mask)
    alone = jax.jit(functools.partial(forward, cfg=cfg))
    for got, adapters in zip(found, (trees[0], None, *trees[1:]), strict=True):
        np.testing.assert_allclose(got, alone(base, adapters, tokens, mask).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quant", [None, QuantConfig()], ids=["dense", "nf4"])
def test_four_forwards_hold_the_base_once(quant):
    """Among the arguments once, and no copy of it among the temporaries."""
    cfg = tiny_config(layers=8, width=128, heads=4, kv_heads=4, head_dim=32, ffn=256)
    base = jax.eval_shape(functools.partial(tiny_base, cfg=cfg, quant=quant), jax.random.key(0))
    trees = jax.eval_shape(adapters_of, jax.random.key(0), base)
    tokens, mask = jax.ShapeDtypeStruct((1, 16), jnp.int32), jax.ShapeDtypeStruct((1, 16), bool)
    program = jax.jit(functools.partial(four, cfg=cfg)).lower(base, *trees, tokens, mask)
    memory = program.compile().memory_analysis()
    arguments = tree_bytes((base, trees, tokens, mask))
    assert arguments <= memory.argument_size_in_bytes < 1.02 * arguments + 4096
    dense = 4 * 8 * (4 * 128 * 128 + 3 * 128 * 256)
    assert memory.temp_size_in_bytes < dense / 2, (memory.temp_size_in_bytes, dense)


CFG = tiny_config("qwen2")
TOKENS, MASK = pad(ragged(0, (3, 5), CFG.vocab_size), 5, "left")


@pytest.mark.parametrize("remat", POLICIES[1:])
def test_every_policy_gives_the_same_value_and_gradient(remat):
    base = tiny_base(jax.random.key(0), CFG)
    adapters = tiny_adapters(jax.random.key(1), base, dropout=0.3)

    @functools.partial(jax.jit, static_argnames="remat")
    def run(adapters, remat):
        def loss(adapters):
            hidden = forward(base, adapters, TOKENS, MASK, CFG, remat=remat, dropout_key=jax.random.key(2))
            return jnp.sum(jnp.where(MASK[..., None], jnp.sin(hidden), 0.0))

        return jax.value_and_grad(loss)(adapters)

    found, want = run(adapters, remat), run(adapters, "none")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, want)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found[1]))


def lowered(remat, quant=None, platforms=None):
    """The gradient of 12 layers on abstract arrays."""
    cfg = tiny_config(layers=12, width=32, heads=4, kv_heads=4, head_dim=8, ffn=96)
    base = jax.eval_shape(functools.partial(tiny_base, cfg=cfg, quant=quant), jax.random.key(0))
    adapters = jax.eval_shape(lambda base: init_adapters(jax.random.key(0), base, LoraConfig(rank=2))[1], base)
    tokens, mask = jax.ShapeDtypeStruct((2, 96), jnp.int32), jax.ShapeDtypeStruct((2, 96), bool)

    def loss(adapters, base, tokens, mask):
        return jnp.sum(forward(base, adapters, tokens, mask, cfg, remat=remat))

    traced = jax.jit(jax.grad(loss)).trace(adapters, base, tokens, mask)
    return traced.lower(lowering_platforms=platforms) if platforms else traced.lower()


def temporaries(remat, quant=None):
    return lowered(remat, quant).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("remat", ["full", "projections", "dots"])
def test_no_policy_keeps_dequantized_weights(remat):
    """All of them would be 12 x 13,312 floats."""
    more = temporaries(remat, QuantConfig(block=32)) - temporaries(remat)
    assert more < 12 * (4 * 32 * 32 + 3 * 32 * 96) * 4 / 2, more


def test_what_is_offloaded_goes_to_the_host_of_a_gpu():
    assert "pinned_host" in lowered("offload", platforms=("cuda",)).as_text()
    assert "pinned_host" not in lowered("dots", platforms=("cuda",)).as_text()


def test_what_the_policies_keep_is_ordered():
    """Each keeps more than the one before it; the attention scores alone are 12 x 2 x 4 x 96 x 96 floats.

    Without a policy only what the backward passes of attention and gate ask for is kept, and no scores.
    """
    full, none, projections, dots = held = [temporaries(r) for r in ("full", "none", "projections", "dots")]
    assert full < none < projections < dots, held
    scores = 4 * 12 * 2 * 4 * 96 * 96
    assert dots - projections > 0.9 * scores, held
    assert full < 0.3 * none, held


def test_an_unknown_policy_is_refused():
    base = tiny_base(jax.random.key(0), CFG)
    with pytest.raises(UserError, match="remat 'some' is unknown: use none, full, dots, projections, offload"):
        forward(base, None, TOKENS, MASK, CFG, remat="some")
