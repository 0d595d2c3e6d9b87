"""Paged state: the bits of plain optax, in host memory, one leaf at a time; the share that is kept there."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.errors import UserError
from lqlm.optim.paged import abstract_state, paged
from lqlm.optim.placement import choose_hosted
from lqlm.trees import commit, tree_bytes

SHAPES = {"a": (48, 16), "b": (16, 40), "deep": {"c": (3, 20, 10), "d": (700,)}, "small": (5,)}
MIN_SIZE = 100
RATE = optax.linear_schedule(1e-2, 1e-3, 10)
BOTH = pytest.mark.parametrize("mode", ["leaf", "whole"])


def draw(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return commit(jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), dtype), SHAPES, is_leaf=is_shape))


def is_shape(x):
    return isinstance(x, tuple)


def adamw(**kwargs):
    return optax.adamw(RATE, weight_decay=0.01, **kwargs)


def make_step(optimizer):
    def step(params, state, grads):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def run(optimizer, steps=10, dtype=jnp.float32, check=lambda state: None):
    step, params = make_step(optimizer), draw(0, dtype)
    state = commit(optimizer.init(params))
    check(state)
    for i in range(steps):
        params, state = step(params, state, draw(i + 1, dtype))
        check(state)
    assert step._cache_size() == 1
    return jax.device_get((params, state))


def kinds_by_size(state):
    kinds = {(x.size >= MIN_SIZE, x.sharding.memory_kind) for x in jax.tree.leaves(state)}
    device = jax.devices()[0].default_memory().kind
    assert kinds == {(True, "pinned_host"), (False, device)}
    assert device != "pinned_host"


@BOTH
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_ten_steps_are_bit_equal_to_optax_and_on_the_host(mode, dtype):
    params, state = run(adamw(), dtype=dtype)
    got, got_state = run(paged(adamw(), mode=mode, min_size=MIN_SIZE), dtype=dtype, check=kinds_by_size)
    chex.assert_trees_all_equal(got, params)
    chex.assert_trees_all_equal(got_state.inner, state)


OTHERS = {
    "chain": lambda wrap: optax.chain(optax.clip_by_global_norm(1.0), wrap(adamw())),
    "clip inside": lambda wrap: wrap(optax.chain(optax.clip_by_global_norm(1.0), adamw())),
    "sgd": lambda wrap: wrap(optax.sgd(RATE, momentum=0.9)),
    "lion": lambda wrap: wrap(optax.lion(RATE)),
    "stateless": lambda wrap: wrap(optax.scale(-0.1)),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_other_chains_are_bit_equal(build):
    want, _ = run(build(lambda inner: inner), steps=3)
    got, _ = run(build(lambda inner: paged(inner, min_size=MIN_SIZE)), steps=3)
    chex.assert_trees_all_equal(got, want)


def test_a_single_leaf_and_no_leaf():
    optimizer = paged(optax.adam(0.1), min_size=1)
    for params in (jnp.ones(4), {}):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(params, optimizer.init(params), params)
            want, _ = optax.adam(0.1).update(params, optax.adam(0.1).init(params), params)
        chex.assert_trees_all_close(updates, want)
        chex.assert_trees_all_equal_structs(state, optimizer.init(params))


@BOTH
def test_not_finite_keeps_every_bit_of_the_state(mode):
    optimizer = paged(adamw(), mode=mode, min_size=MIN_SIZE)

    @jax.jit
    def update(grads, state, params, finite):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(grads, state, params, finite=finite)[1]

    params = draw(0)
    state = update(draw(1), optimizer.init(params), params, True)
    bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), draw(2))
    kept = update(bad, state, params, False)
    kinds_by_size(kept)
    chex.assert_trees_all_equal(jax.device_get(kept), jax.device_get(state))
    moved = jax.device_get(update(draw(2), state, params, True))
    assert not np.array_equal(moved.inner[0].mu["a"], jax.device_get(state).inner[0].mu["a"])


def test_extra_arguments_reach_the_inner_update():
    def update(updates, state, params=None, *, factor):
        return jax.tree.map(lambda x: x * factor, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = paged(inner)
    got, _ = optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)), factor=jnp.float32(2.0))
    np.testing.assert_array_equal(got, [2.0, 2.0, 2.0])


def moves(jaxpr):
    """The transfers and barriers of a jaxpr, in order: (kind, shape)."""
    out = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "device_put":
            out += [(d.name.lower(), v.aval.shape) for d, v in zip(eqn.params["devices"], eqn.invars)]
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            out += moves(inner)
    return out


def test_a_leaf_goes_out_before_the_next_comes_in():
    optimizer, params = paged(adamw(), min_size=MIN_SIZE), draw(0)
    with jax.numpy_dtype_promotion("standard"):
        jaxpr = jax.make_jaxpr(optimizer.update)(draw(1), optimizer.init(params), params)
    order = moves(jaxpr.jaxpr)
    shapes = [x.shape for x in jax.tree.leaves(params) if x.size >= MIN_SIZE]
    assert order == [step for s in shapes for step in [("device", s)] * 2 + [("host", s)] * 2]


def depends(eqns, start, end):
    """Whether the value ``end`` is computed from ``start``."""
    reached = {start}
    for eqn in eqns:
        if any(v in reached for v in eqn.invars if not isinstance(v, jax.extend.core.Literal)):
            reached.update(eqn.outvars)
    return end in reached


def test_the_order_is_a_dependency_and_not_a_wish():
    optimizer, params = paged(adamw(), min_size=MIN_SIZE), draw(0)
    with jax.numpy_dtype_promotion("standard"):
        jaxpr = jax.make_jaxpr(optimizer.update)(draw(1), optimizer.init(params), params).jaxpr
    eqns = jaxpr.eqns
    puts = [e for e in eqns if e.primitive.name == "device_put"]
    outward = [e.outvars[0] for e in puts if e.params["devices"][0] == jax.memory.Space.Host]
    inward = [e.invars[0] for e in puts if e.params["devices"][0] == jax.memory.Space.Device]
    for leaf in range(len(outward) // 2 - 1):
        for out in outward[2 * leaf : 2 * leaf + 2]:
            assert depends(eqns, out, inward[2 * leaf + 2])
            assert depends(eqns, out, inward[2 * leaf + 3])
    # An unused result of a barrier might be pruned, and the dependency with it.
    barriers = [e for e in eqns if e.primitive.name == "optimization_barrier"]
    used = {id(v) for e in eqns for v in e.invars} | {id(v) for v in jaxpr.outvars}
    assert barriers
    assert all(id(v) in used for e in barriers for v in e.outvars)


def test_ahead_of_time_the_state_is_an_argument_on_the_host():
    optimizer, device = paged(adamw(), min_size=MIN_SIZE), jax.devices()[0]
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), draw(0))
    state = abstract_state(optimizer, params, device)
    traced = make_step(optimizer).trace(params, state, params)
    compiled = traced.lower().compile()
    kinds_by_size(state)
    compiled_kinds = [s.memory_kind for s in jax.tree.leaves(compiled.input_shardings[0][1])]
    assert compiled_kinds == [x.sharding.memory_kind for x in jax.tree.leaves(state)]
    # On an accelerator each large array of the state is annotated once inward and once outward.
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    large = sum(x.size >= MIN_SIZE for x in jax.tree.leaves(state))
    assert text.count('_xla_buffer_placement = "device"') == large == 8
    assert text.count('_xla_buffer_placement = "pinned_host"') == large
    assert text.count('mhlo.memory_kind = "pinned_host"') == 2 * large  # an argument and a result each


def test_temporaries_do_not_grow_with_the_state():
    shapes = {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(12)}
    optimizer = paged(adamw())
    state = abstract_state(optimizer, shapes, jax.devices()[0])
    memory = make_step(optimizer).lower(shapes, state, shapes).compile().memory_analysis()
    one_leaf = 2 * 256 * 256 * 4
    assert tree_bytes(state) > 12 * one_leaf
    assert memory.temp_size_in_bytes < 1.5 * one_leaf


def test_not_finite_keeps_state_that_is_swapped_or_constant():
    """What ``inner`` puts into another place, or replaces by a constant, is kept as well."""

    def update(updates, state, params=None):
        first, second, third = state
        return updates, (second, first, jnp.zeros_like(third))

    inner = optax.GradientTransformation(lambda params: (params, 2 * params, 3 * params), update)
    optimizer = paged(inner, min_size=1)
    step = jax.jit(lambda g, s, finite: optimizer.update(g, s, finite=finite)[1].inner)
    ones = jnp.ones(4)
    state = optimizer.init(ones)
    assert [float(x[0]) for x in jax.device_get(step(ones, state, False))] == [1.0, 2.0, 3.0]
    assert [float(x[0]) for x in jax.device_get(step(ones, state, True))] == [2.0, 1.0, 0.0]


def hosted_bytes(state):
    return tree_bytes([x for x in jax.tree.leaves(state) if x.sharding.memory_kind == "pinned_host"])


@pytest.mark.parametrize("mode", ["leaf", "whole", "slice"])
@pytest.mark.parametrize("offload", [0.0, 0.3, 0.7])
def test_a_share_of_the_moments_stays_on_the_device(mode, offload):
    optimizer = paged(adamw(), mode=mode, offload=offload, min_size=MIN_SIZE)
    sizes = []
    params, state = run(optimizer, steps=2, check=lambda state: sizes.append(hosted_bytes(state)))
    want, want_state = run(adamw(), steps=2)
    chex.assert_trees_all_close(params, want, rtol=0, atol=3e-7)
    chex.assert_trees_all_equal(state.inner, want_state)
    total = 2 * 4 * (48 * 16 + 16 * 40 + 3 * 20 * 10 + 700)  # two float32 moments of all but the small leaf
    largest = 4 * 48 * 16
    assert len(set(sizes)) == 1 and offload * total <= sizes[0] < offload * total + largest
    assert (sizes[0] == 0) == (offload == 0)


def test_a_share_ahead_of_time_is_that_of_the_state():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), paged(adamw(), offload=0.5, min_size=MIN_SIZE))
    state = optimizer.init(draw(0))
    abstract = abstract_state(optimizer, draw(0), jax.devices()[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, state)
    found, want = ([x.sharding.memory_kind for x in jax.tree.leaves(tree)] for tree in (abstract, state))
    assert found == want and "pinned_host" in found and found.count("pinned_host") < 8


@hypothesis.given(st.lists(st.integers(1, 50), max_size=8), st.floats(0, 1))
def test_the_largest_are_chosen_until_the_share_is_reached(sizes, offload):
    shapes = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in sizes]
    chosen = choose_hosted(shapes, offload, min_size=10)
    inside = [n for n, hosted in zip(sizes, chosen) if hosted]
    outside = [n for n, hosted in zip(sizes, chosen) if not hosted and n >= 10]
    total = sum(n for n in sizes if n >= 10)
    assert min(inside, default=50) >= max(outside, default=10) and min(inside, default=10) >= 10
    assert sum(inside) >= offload * total - 1e-6
    assert not inside or sum(inside) - min(inside) < offload * total


@pytest.mark.parametrize("bad", [{"mode": "layer"}, {"offload": 1.5}, {"offload": -0.1}], ids=str)
def test_a_setting_without_meaning_is_refused(bad):
    with pytest.raises(UserError, match="paged: "):
        paged(adamw(), **bad)
