"""The laws that every optimizer keeps, paged or not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.io.leaves import from_arrays, to_arrays
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.trees import commit

SHAPES = {"layers": {"a": (2, 64, 66), "b": (2, 5, 64)}, "embed": (64, 65), "bias": (5,)}
CASES = [(optimizer, paging) for optimizer in ("adamw", "adamw8bit") for paging in ("none", "whole", "leaf", "slice")]
EACH = pytest.mark.parametrize(("optimizer", "paging"), CASES, ids=["-".join(case) for case in CASES])
DTYPES = (jnp.float32, jnp.bfloat16)


def draw(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return commit(
        jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), dtype), SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    )


def build(optimizer, paging, **settings):
    return make_optimizer(OptimConfig(learning_rate=1e-2, optimizer=optimizer, paging=paging, **settings))


def stepper(optimizer):
    def step(params, state, grads, finite):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params, finite=finite)
            return optax.apply_updates(params, updates), state

    return step


def check_kinds(state, paging):
    device = jax.devices()[0].default_memory().kind
    for x in jax.tree.leaves(state):
        assert x.sharding.memory_kind == ("pinned_host" if paging != "none" and x.size >= 4096 else device)


@EACH
def test_compiled_once_kinds_kept_dtypes_kept_and_never_changed_by_what_is_not_finite(optimizer, paging):
    """Of bfloat16 parameters, after the chain's clipping."""
    chain = build(optimizer, paging)
    step, params = jax.jit(stepper(chain)), draw(0, jnp.bfloat16)
    state = commit(chain.init(params))
    check_kinds(state, paging)
    first, state_1 = step(params, state, draw(1, jnp.bfloat16), jnp.bool_(True))
    bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), draw(2, jnp.bfloat16))
    _, kept = step(first, state_1, bad, jnp.bool_(paging == "none"))
    assert step._cache_size() == 1
    check_kinds(state_1, paging)
    check_kinds(kept, paging)
    assert {x.dtype for x in jax.tree.leaves(first)} == {jnp.dtype(jnp.bfloat16)}
    assert {str(x.dtype) for x in jax.tree.leaves(state_1)} <= {"float32", "uint8", "int32"}
    assert all(np.any(x != y) for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(params)))
    if paging != "none":  # without paging it is the caller who keeps the state
        chex.assert_trees_all_equal(jax.device_get(kept), jax.device_get(state_1))


@EACH
def test_no_gradient_no_step(optimizer, paging):
    """From the start, and of a row that never had one while the others move."""
    chain, params = build(optimizer, paging), draw(0)
    step, state = jax.jit(stepper(chain)), commit(chain.init(params))
    still, state = step(params, state, jax.tree.map(jnp.zeros_like, params), jnp.bool_(True))
    chex.assert_trees_all_equal(still, params)
    grads = jax.tree.map(lambda x: x.at[..., 1:2].set(0.0), draw(1))
    for _ in range(3):
        params, state = step(params, state, grads, jnp.bool_(True))
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[..., 1:2], tree) for tree in (params, still)))
    assert not np.array_equal(params["embed"], still["embed"])


@pytest.mark.parametrize(("optimizer", "paging"), [("adamw", "leaf"), ("adamw8bit", "none"), ("adamw8bit", "slice")])
def test_jit_equals_eager(optimizer, paging):
    chain, params = build(optimizer, paging, weight_decay=0.01), draw(0)
    step, state = stepper(chain), chain.init(params)
    found, found_state = jax.jit(step)(params, state, draw(1), jnp.bool_(True))
    want, want_state = step(params, state, draw(1), jnp.bool_(True))
    chex.assert_trees_all_close(found, want, rtol=0, atol=1e-6)
    for x, y in zip(jax.tree.leaves(found_state), jax.tree.leaves(want_state), strict=True):
        x, y = (np.asarray(z).astype(np.float64) for z in (x, y))
        # A code may be a neighbour where the last bit decides, and one on a tie is rare.
        apart = np.abs(x - y)
        assert np.all(apart <= (1 if x.max() > 1 and x.ndim else 1e-6)) and np.mean(apart > 1e-6) < 1e-3


@EACH
def test_a_checkpoint_brings_back_every_bit_and_its_place(optimizer, paging):
    chain, params = build(optimizer, paging), draw(0)
    step = jax.jit(stepper(chain))
    params, state = step(params, commit(chain.init(params)), draw(1), jnp.bool_(True))
    back = from_arrays(to_arrays(state), jax.tree.map(lambda x: x, state))
    chex.assert_trees_all_equal_structs(back, state)
    chex.assert_trees_all_equal(jax.device_get(back), jax.device_get(state))
    check_kinds(back, paging)
    ahead = [step(params, each, draw(2), jnp.bool_(True)) for each in (state, back)]
    chex.assert_trees_all_equal(*jax.device_get(ahead))
    assert step._cache_size() == 1


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
def test_every_way_of_paging_steps_alike(optimizer, dtype):
    ends = {}
    for paging in ("none", "whole", "leaf", "slice"):
        chain, params = build(optimizer, paging), draw(0, dtype)
        step, state = jax.jit(stepper(chain)), commit(chain.init(params))
        for seed in range(1, 4):
            params, state = step(params, state, draw(seed, dtype), jnp.bool_(True))
        ends[paging] = jax.device_get(params)
    for paging in ("whole", "leaf"):
        chex.assert_trees_all_equal(ends[paging], ends["none"])
    for x, y in zip(jax.tree.leaves(ends["slice"]), jax.tree.leaves(ends["none"])):
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), rtol=0, atol=5e-7)
