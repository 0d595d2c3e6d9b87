"""Schedules by hand, and the chain against its parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.errors import UserError
from lqlm.optim.adam8 import Moment8
from lqlm.optim.chains import OptimConfig, clip_by_global_norm, make_optimizer, make_schedule
from lqlm.optim.paged import PagedState
from lqlm.optim.precision import in_float32
from lqlm.trees import global_norm


def rates(cfg, steps):
    return [float(make_schedule(cfg)(jnp.int32(t))) for t in range(steps)]


def test_schedules_by_hand():
    constant = OptimConfig(learning_rate=2.0, warmup_steps=4)
    np.testing.assert_allclose(rates(constant, 6), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    linear = OptimConfig(learning_rate=1.0, schedule="linear", total_steps=4)
    np.testing.assert_allclose(rates(linear, 6), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    cosine = OptimConfig(learning_rate=1.0, schedule="cosine", warmup_steps=1, total_steps=5)
    np.testing.assert_allclose(rates(cosine, 4), [1.0, 1.0, 0.5 + 0.5 * 0.5**0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("paging", ["none", "whole", "leaf", "slice"])
def test_the_chain_clips_and_then_steps(paging):
    cfg = OptimConfig(learning_rate=0.1, weight_decay=0.2, b2=0.99, clip_norm=0.5, paging=paging)
    params, grads = {"w": jnp.ones((80, 80))}, {"w": jnp.full((80, 80), 3.0)}
    reference = optax.adamw(0.1, b2=0.99, weight_decay=0.2)
    optimizer = make_optimizer(cfg)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        got, state = optimizer.update(grads, state, params, finite=jnp.bool_(True))
        clipped = jax.tree.map(lambda g: g * 0.5 / global_norm(grads), grads)
        want, _ = reference.update(clipped, reference.init(params), params)
    chex.assert_trees_all_close(got, want, rtol=1e-5)
    assert any(isinstance(s, PagedState) for s in state) == (paging != "none")
    assert ("pinned_host" in {x.sharding.memory_kind for x in jax.tree.leaves(state)}) == (paging != "none")


def test_eight_bits_and_a_share_of_them_on_the_host():
    cfg = OptimConfig(optimizer="adamw8bit", paging="slice", offload=0.5)
    state = make_optimizer(cfg).init({"a": jnp.zeros((3, 64, 80)), "b": jnp.zeros((64, 80))})[1].inner
    mu = state[0].mu
    assert isinstance(mu["a"], Moment8) and mu["a"].codes.dtype == jnp.uint8
    kinds = [mu[name].codes.sharding.memory_kind == "pinned_host" for name in ("a", "b")]
    assert kinds == [True, False]


def test_no_clipping_when_none():
    params, grads = jnp.ones(3), jnp.full(3, 100.0)
    optimizer = make_optimizer(OptimConfig(clip_norm=None, eps=100.0, learning_rate=1.0, paging="none"))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.5, rtol=1e-5)


BAD = [
    {"schedule": "step"},
    {"schedule": "cosine", "warmup_steps": 5, "total_steps": 5},
    {"learning_rate": -1.0},
    {"warmup_steps": -1},
    {"clip_norm": 0.0},
    {"optimizer": "sgd"},
    {"paging": "layer"},
    {"offload": 1.01},
]


@pytest.mark.parametrize("setting", BAD, ids=str)
def test_a_config_without_meaning_is_refused(setting):
    with pytest.raises(UserError, match="OptimConfig"):
        OptimConfig(**setting)


def test_a_falling_schedule_needs_its_length():
    with pytest.raises(UserError, match="total_steps 0"):
        make_schedule(OptimConfig(schedule="linear"))


@pytest.mark.parametrize("norm", [1.0, 1e3])
def test_clipping_is_that_of_optax(norm):
    grads = {"a": jnp.arange(12.0).reshape(3, 4), "b": -jnp.ones(5)}
    found, _ = clip_by_global_norm(norm).update(grads, optax.EmptyState())
    want, _ = optax.clip_by_global_norm(norm).update(grads, optax.EmptyState())
    chex.assert_trees_all_close(found, want, rtol=1e-6)
    if norm == 1e3:
        chex.assert_trees_all_equal(found, grads)


def test_clipping_sums_the_norm_of_bfloat16_in_float32():
    grads = {"a": jnp.full(1000, 3.0, jnp.bfloat16), "b": jnp.full(1, 1.0, jnp.bfloat16)}
    found, _ = clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    assert found["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(found["a"].astype(jnp.float32), 3 / 9001**0.5, rtol=2**-8)


def trained(optimizer, dtype, steps=200):
    params = jnp.full(4, 0.5, dtype)
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for i in range(steps):
            updates, state = optimizer.update(jnp.full(4, 1.0 if i < 100 else 0.1, dtype), state, params)
            params = optax.apply_updates(params, updates)
    return params, state


def test_the_state_of_bfloat16_parameters_is_that_of_float32_ones():
    params, state = trained(in_float32(optax.adamw(1e-4)), jnp.bfloat16)
    _, want = trained(optax.adamw(1e-4), jnp.float32)
    _, coarse = trained(optax.adamw(1e-4), jnp.bfloat16)
    assert params.dtype == jnp.bfloat16 and state[0].nu.dtype == jnp.float32
    np.testing.assert_allclose(state[0].nu, want[0].nu, rtol=0.01)
    assert abs(float(coarse[0].nu[0]) / float(want[0].nu[0]) - 1) > 0.05  # what bfloat16 would have made of it


def test_float32_parameters_keep_their_bits():
    found, want = trained(in_float32(optax.adamw(1e-2)), jnp.float32, 5), trained(optax.adamw(1e-2), jnp.float32, 5)
    chex.assert_trees_all_equal(found, want)
