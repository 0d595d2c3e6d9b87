"""One update on a bigram policy: gradients, skips, keys, compilations, and that it learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm import logprobs
from lqlm.algorithms import step as step_module
from lqlm.algorithms.advantages import group_advantages
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.step import Objective, init_state
from lqlm.errors import UserError
from lqlm.optim.paged import paged
from lqlm.trees import global_norm

V, D, B, G, P, C = 7, 4, 4, 3, 2, 5
REDUCTIONS = {
    "sequence": GRPOConfig(),
    "token": GRPOConfig(reduction="token"),
    "constant": GRPOConfig(reduction="constant", max_length=C),
}
EACH = pytest.mark.parametrize("cfg", REDUCTIONS.values(), ids=REDUCTIONS)
OPTIMIZERS = {
    "plain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "paged": optax.chain(optax.clip_by_global_norm(1.0), paged(optax.adamw(1e-2), min_size=1)),
}
BY_OPTIMIZER = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_update(score, optimizer, cfg, *, micro_batches=1):
    return step_module.make_update(grpo_objective(score, cfg), optimizer, micro_batches=micro_batches)


def score(adapters, base, batch, key):
    last = jnp.broadcast_to(batch.prompts_BP[:, None, -1:], (*batch.completions_BGC.shape[:2], 1))
    inputs = jnp.concatenate([last, batch.completions_BGC[..., :-1]], axis=-1)
    logits = base["embed"][inputs] @ (base["head"] + adapters["a"] @ adapters["b"])
    if key is not None:
        logits = logits + 0.1 * jax.random.normal(key, logits.shape)
    return logprobs.token_logprobs(logits, batch.completions_BGC), logprobs.entropy(logits)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    base = {"embed": rng.normal(size=(V, D)), "head": rng.normal(size=(D, V))}
    adapters = {"a": rng.normal(size=(D, 2)) * 0.1, "b": rng.normal(size=(2, V)) * 0.1}
    mask = np.arange(C) < rng.integers(1, C + 1, (B, G))[..., None]
    batch = GRPOBatch(
        prompts_BP=jnp.asarray(rng.integers(0, V, (B, P)), jnp.int32),
        prompt_mask_BP=jnp.ones((B, P), bool),
        completions_BGC=jnp.asarray(rng.integers(0, V, (B, G, C)), jnp.int32),
        completion_mask_BGC=jnp.asarray(mask),
        advantages_BG=jnp.asarray(rng.normal(size=(B, G)), jnp.float32),
        old_logp_BGC=jnp.asarray(-rng.gamma(2.0, 1.0, (B, G, C)), jnp.float32),
        ref_logp_BGC=jnp.asarray(-rng.gamma(2.0, 1.0, (B, G, C)), jnp.float32),
    )
    return *jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (base, adapters)), batch


def descend(cfg, micro_batches, key=None):
    """Update by plain gradient descent of rate 1: the change of the adapters is minus the gradient."""
    base, adapters, batch = problem()
    optimizer = optax.sgd(1.0)
    update = jax.jit(make_update(score, optimizer, cfg, micro_batches=micro_batches))
    state, metrics = update(init_state(adapters, optimizer), base, batch, key)
    return jax.tree.map(jnp.subtract, adapters, state.adapters), metrics


@EACH
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_give_the_full_gradient_and_metrics(cfg, micro_batches):
    chex.assert_trees_all_close(descend(cfg, micro_batches), descend(cfg, 1), rtol=1e-4, atol=1e-6)


def test_metrics_of_a_batch():
    base, adapters, batch = problem()
    gradient, metrics = descend(REDUCTIONS["token"], 2)
    _, entropy = score(adapters, base, batch, None)
    np.testing.assert_allclose(metrics["entropy"], np.asarray(entropy)[batch.completion_mask_BGC].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], global_norm(gradient), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["policy_loss"] + 0.04 * metrics["kl"], rtol=1e-5)
    assert int(metrics["tokens"]) == int(batch.completion_mask_BGC.sum())
    assert float(metrics["finite"]) == 1.0


def test_no_old_logp_means_ratio_one():
    base, adapters, batch = problem()
    optimizer = optax.sgd(1.0)
    update = make_update(score, optimizer, GRPOConfig(beta=0.0), micro_batches=2)
    batch = batch.replace(old_logp_BGC=None, ref_logp_BGC=None)
    state, metrics = update(init_state(adapters, optimizer), base, batch, None)
    assert float(metrics["ratio"]) == 1.0
    assert float(metrics["clip_ratio/region_mean"]) == 0.0
    logp, _ = score(adapters, base, batch, None)
    same, _ = update(init_state(adapters, optimizer), base, batch.replace(old_logp_BGC=logp), None)
    chex.assert_trees_all_close(state.adapters, same.adapters, rtol=1e-5)
    assert float(metrics["grad_norm"]) > 1e-3


def test_micro_batches_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="divisor"):
        descend(GRPOConfig(), 3)
    with pytest.raises(UserError, match="micro_batches 0"):
        make_update(score, optax.sgd(1.0), GRPOConfig(), micro_batches=0)


def test_each_micro_batch_draws_its_own_noise():
    cfg, key = GRPOConfig(), jax.random.key(0)
    one, other = descend(cfg, 2, key)[0], descend(cfg, 2, jax.random.key(1))[0]
    assert not np.allclose(one["a"], other["a"], rtol=1e-3)
    seen = []

    def spy(adapters, base, batch, key):
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return score(adapters, base, batch, key)

    base, adapters, batch = problem()
    update = jax.jit(make_update(spy, optax.sgd(1.0), cfg, micro_batches=4))
    jax.block_until_ready(update(init_state(adapters, optax.sgd(1.0)), base, batch, key))
    jax.effects_barrier()
    assert len(set(seen)) == 4


@BY_OPTIMIZER
def test_jit_equals_eager(optimizer):
    base, adapters, batch = problem()
    update = make_update(score, optimizer, GRPOConfig(), micro_batches=2)
    eager = update(init_state(adapters, optimizer), base, batch, jax.random.key(3))
    jitted = jax.jit(update)(init_state(adapters, optimizer), base, batch, jax.random.key(3))
    chex.assert_trees_all_close(jax.device_get(jitted), jax.device_get(eager), rtol=1e-4, atol=1e-6)


@BY_OPTIMIZER
def test_the_second_update_compiles_nothing(optimizer):
    base, adapters, batch = problem()
    update = make_update(score, optimizer, GRPOConfig(), micro_batches=2)
    traces = []

    @jax.jit
    def traced(*arguments):
        traces.append(1)
        return update(*arguments)

    step = jax.jit(lambda *arguments: traced(*arguments), donate_argnums=0)
    state = init_state(adapters, optimizer)
    for i in range(3):
        state, _ = step(state, base, batch, jax.random.key(i))
    assert len(traces) == 1
    assert step._cache_size() == 1
    assert int(state.step) == 3


def poison_loss(batch):
    return batch.replace(advantages_BG=batch.advantages_BG.at[1, 0].set(jnp.nan))


def poison_gradient(batch):
    return batch.replace(prompts_BP=batch.prompts_BP.at[1, 0].set(V))


def steep_score(adapters, base, batch, key):
    """Add a term of value zero whose slope, that of a square root, is infinite where a prompt begins with V."""
    logp, entropy = score(adapters, base, batch, key)
    total = jnp.sum(adapters["a"])
    distance = jnp.min(jnp.where(batch.prompts_BP[:, 0] == V, 0.0, 1.0))
    root = jnp.sqrt(total - jax.lax.stop_gradient(total) + distance)
    return logp + (root - jnp.sqrt(distance)), entropy


@BY_OPTIMIZER
@pytest.mark.parametrize(("score_function", "poison"), [(score, poison_loss), (steep_score, poison_gradient)])
def test_what_is_not_finite_is_skipped_and_counted(optimizer, score_function, poison):
    base, adapters, batch = problem()
    step = jax.jit(make_update(score_function, optimizer, GRPOConfig(), micro_batches=2), donate_argnums=0)
    state, metrics = step(init_state(adapters, optimizer), base, batch, None)
    assert float(metrics["finite"]) == 1.0
    before = jax.device_get(state)
    for i in (1, 2):
        state, metrics = step(state, base, poison(batch), None)
        assert float(metrics["finite"]) == 0.0
        assert (int(state.step), int(state.skipped), int(state.skipped_total)) == (1 + i, i, i)
    after = jax.device_get(state)
    chex.assert_trees_all_equal((after.adapters, after.opt_state), (before.adapters, before.opt_state))
    counts = [x for x in jax.tree.leaves(after.opt_state) if x.dtype == jnp.int32]
    assert counts
    assert all(x == 1 for x in counts)
    state, metrics = step(state, base, batch, None)
    assert (int(state.skipped), int(state.skipped_total)) == (0, 2)
    assert not np.array_equal(state.adapters["a"], before.adapters["a"])


def test_the_steep_score_poisons_only_the_gradient():
    base, adapters, batch = problem()
    update = jax.jit(make_update(steep_score, OPTIMIZERS["plain"], GRPOConfig()))
    _, metrics = update(init_state(adapters, OPTIMIZERS["plain"]), base, poison_gradient(batch), None)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])


def test_paged_and_plain_learn_the_same():
    base, _, batch = problem()
    ends = []
    for optimizer in OPTIMIZERS.values():
        step = jax.jit(make_update(score, optimizer, GRPOConfig(), micro_batches=2), donate_argnums=0)
        state = init_state(problem()[1], optimizer)
        for _ in range(5):
            state, _ = step(state, base, batch, None)
        ends.append(jax.device_get(state.adapters))
    chex.assert_trees_all_equal(*ends)


@pytest.mark.slow
def test_reward_rises():
    """Completions earn the share of their tokens that equal 3; sampled anew at every step."""
    base, adapters, batch = problem()
    optimizer = paged(optax.adamw(0.1), min_size=1)
    step = jax.jit(make_update(score, optimizer, GRPOConfig(beta=0.0, reduction="token")))
    state, rewards = init_state(adapters, optimizer), []

    @jax.jit
    def rollout(adapters, key):
        def draw(last, key):
            logits = base["embed"][last] @ (base["head"] + adapters["a"] @ adapters["b"])
            token = jax.random.categorical(key, logits)
            return token, token

        start = jnp.broadcast_to(batch.prompts_BP[:, -1:], (B, 16))
        return jnp.moveaxis(jax.lax.scan(draw, start, jax.random.split(key, C))[1], 0, -1)

    for i in range(40):
        tokens = rollout(state.adapters, jax.random.fold_in(jax.random.key(0), i))
        reward = jnp.mean((tokens == 3).astype(jnp.float32), axis=-1)
        rewards.append(float(reward.mean()))
        fresh = batch.replace(
            completions_BGC=tokens,
            completion_mask_BGC=jnp.ones(tokens.shape, bool),
            advantages_BG=group_advantages(reward),
            old_logp_BGC=None,
            ref_logp_BGC=None,
        )
        state, _ = step(state, base, fresh, None)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3


def scaled_squares(adapters, base, part, key):
    """A loss of a batch ``(x_B, weights_B, factor)``: nothing of it is GRPO's."""
    x, weights, factor = part
    value = factor * jnp.sum(weights * jnp.square(adapters["a"] - x))
    return value, {"n": jnp.float32(len(x)), "factor": factor}


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_any_objective_gets_parts_of_arrays_and_whole_scalars(micro_batches):
    x, factor = jnp.arange(8.0), jnp.float32(3.0)
    objective = Objective(scaled_squares, lambda batch: (batch, batch / jnp.sum(batch), factor), lambda sums: sums)
    update = step_module.make_update(objective, optax.sgd(1.0), micro_batches=micro_batches)
    state, metrics = update(init_state({"a": jnp.float32(1.0)}, optax.sgd(1.0)), {}, x, None)
    weights = np.arange(8.0) / 28
    np.testing.assert_allclose(metrics["loss"], 3 * (weights * (1 - np.arange(8.0)) ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(1 - state.adapters["a"], (6 * weights * (1 - np.arange(8.0))).sum(), rtol=1e-6)
    assert (float(metrics["n"]), float(metrics["factor"])) == (8.0, 3.0 * micro_batches)  # sums over the parts
