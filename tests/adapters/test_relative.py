"""Adapters of a changed base, rewritten for the original one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.lora import product
from lqlm.adapters.relative import relative_config, relative_to
from lqlm.errors import UserError
from tests.adapters.cases import dense_base, random_adapters

SETTINGS = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "bias": {"bias": "all", "lora_bias": True},
    "ranks": {"rank_pattern": (("layers.1.*", 2),), "alpha_pattern": (("q_proj", 5.0),), "rslora": True},
}


def whole(lora):
    return np.broadcast_to(lora.scalings, 2)[:, None, None] * np.asarray(product(lora))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_is_the_difference_at_twice_the_rank(settings):
    cfg = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "up_proj"), **settings)
    trained, initial = (random_adapters(dense_base(), cfg, seed) for seed in (1, 2))
    found, found_cfg = relative_to(trained, initial), relative_config(cfg)
    assert found_cfg.init == "kaiming" and found.keys() == trained.keys()
    for name, lora in found["layers"].items():
        before, after = initial["layers"][name], trained["layers"][name]
        np.testing.assert_allclose(whole(lora), whole(after) - whole(before), atol=1e-5)
        assert lora.a.shape[2] == lora.b.shape[1] == 2 * after.a.shape[2]
        for layer in range(2):
            assert found_cfg.rank_at(name, layer) == 2 * cfg.rank_at(name, layer)
            assert found_cfg.scaling_at(name, layer) == pytest.approx(cfg.scaling_at(name, layer), rel=1e-12)
            unused = found_cfg.rank_at(name, layer)
            assert not lora.a[layer, :, unused:].any() and not lora.b[layer, unused:].any()
        if cfg.dora:
            assert lora.magnitude is after.magnitude
        if cfg.lora_bias:
            np.testing.assert_array_equal(lora.bias, after.bias - before.bias)


def test_only_adapters_of_one_run_belong_together():
    cfg = LoraConfig(rank=3, targets=("q_proj",))
    trained = random_adapters(dense_base(), cfg)
    with pytest.raises(UserError, match="of other linear layers"):
        relative_to(trained, random_adapters(dense_base(), LoraConfig(rank=3, targets=("k_proj",))))
    with pytest.raises(UserError, match="q_proj: the initial adapter has another shape or scaling"):
        relative_to(trained, random_adapters(dense_base(), LoraConfig(rank=2, targets=("q_proj",))))


def test_it_is_a_pure_function():
    cfg = LoraConfig(rank=3, targets=("q_proj",))
    trees = [random_adapters(dense_base(), cfg, seed) for seed in (1, 2)]
    jitted = jax.jit(relative_to)(*trees)
    jax.tree.map(np.testing.assert_array_equal, jitted, relative_to(*trees))
    assert jnp.isfinite(jitted["layers"]["q_proj"].a).all()
