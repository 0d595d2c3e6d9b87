"""PPO and A2C: worked by hand, the two against each other, and what padding and micro-batches may not change."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.a2c import A2CConfig, a2c_loss, a2c_objective
from lqlm.algorithms.actor_critic import Outputs, batch_weights, mean_metrics, minibatch_rows, take_rows
from lqlm.algorithms.actor_critic_terms import clipped_value_error
from lqlm.algorithms.ppo import (
    PPOConfig,
    penalized_surrogate,
    ppo_loss,
    ppo_objective,
    ppo_penalty_loss,
    ppo_penalty_objective,
)
from lqlm.algorithms.sft import SFTBatch
from lqlm.algorithms.step import init_state, make_update
from lqlm.errors import UserError
from lqlm.logprobs import TokenScores
from tests.algorithms.ppo_cases import batch_of, outputs_of, random_case, split_case

CFG = PPOConfig(vf_coef=0.3, entropy_coef=0.05)
BARE = PPOConfig(value_epsilon=None, vf_coef=0.5, entropy_coef=0.01)  # what of PPO is A2C
seeds = st.integers(0, 2**31)


def clipped(outputs, batch, cfg=CFG):
    return ppo_loss(outputs, batch, batch_weights(batch), cfg)


def penalized(outputs, batch, cfg=CFG):
    return ppo_penalty_loss(outputs, batch.replace(penalty=jnp.float32(0.7)), batch_weights(batch), cfg)


def a2c(outputs, batch, cfg=None):
    return a2c_loss(outputs, batch, batch_weights(batch), A2CConfig(0.5, 0.01))  # the coefficients of BARE


LOSSES = {"clipped": clipped, "penalized": penalized, "a2c": a2c}


@functools.partial(jax.jit, static_argnames=("loss", "cfg"))
def evaluated(loss, outputs, batch, cfg):
    return jax.value_and_grad(loss, has_aux=True)(outputs, batch, cfg)


def gradients(loss, outputs, batch, cfg=CFG):
    return evaluated(loss, outputs, batch, cfg)[1]


def test_the_clipped_loss_by_hand():
    """Ratios 2, 2, 0.5 with advantages 1, -1, -1: terms -1.2, 2, 0.8, mean 1.6 / 3."""
    old = np.zeros((1, 3), np.float32)
    advantages = np.array([[1.0, -1.0, -1.0]])
    batch = batch_of(np.ones((1, 3), bool), old, old, advantages, old)
    logp = np.log(np.array([[2.0, 2.0, 0.5]], np.float32))
    loss, sums = clipped(outputs_of(logp, old), batch, PPOConfig(vf_coef=0.0))
    assert float(loss) == pytest.approx(1.6 / 3, rel=1e-6)
    grads = gradients(clipped, outputs_of(logp, old), batch, cfg=PPOConfig(vf_coef=0.0))
    np.testing.assert_allclose(grads.logp[0, 0], [0, 2 / 3, 0], rtol=1e-6)  # min, not max: only the second moves on
    metrics = mean_metrics(sums)
    assert float(metrics["clip_ratio/high_mean"]) == float(metrics["clip_ratio/low_mean"]) == pytest.approx(1 / 3)


def test_the_clipped_value_loss_by_hand():
    """R = 1, V_old = 0, +- 0.2: at V = 0.1 and -1 the plain error, at 0.9 that of 0.2, without a gradient."""
    values, zeros, ones = jnp.array([0.1, 0.9, -1.0]), jnp.zeros(3), jnp.ones(3)
    np.testing.assert_allclose(clipped_value_error(values, zeros, ones, 0.2), [0.405, 0.32, 2.0], rtol=1e-6)
    grads = jax.grad(lambda v: clipped_value_error(v, zeros, ones, 0.2).sum())(values)
    np.testing.assert_allclose(grads, [-0.9, 0.0, -2.0], rtol=1e-6)


def test_the_penalty_by_hand():
    """r = 2, A = 3, beta = 10: 6 - 10 (2 - 1 - log 2), with the gradient r A - beta (r - 1) in log p."""
    arrays = jnp.log(jnp.array([2.0])), jnp.zeros(1), jnp.array([3.0]), jnp.array([True])
    objective, kl = penalized_surrogate(*arrays, 10.0)
    np.testing.assert_allclose([objective[0], kl[0]], [6 - 10 * (1 - np.log(2)), 1 - np.log(2)], rtol=1e-6)
    grad = jax.grad(lambda logp: penalized_surrogate(logp, *arrays[1:], 10.0)[0].sum())(arrays[0])
    np.testing.assert_allclose(grad, [6 - 10 * 1], rtol=1e-6)


def on_policy(seed):
    """A case at which the policy is the one that drew the tokens, and advantages are not whitened."""
    case = random_case(seed)
    return split_case(case | {"old_logp": case["logp"], "old_values": case["values"]})


@given(seeds)
def test_ppo_of_one_epoch_and_the_full_batch_is_a2c(seed):
    """arXiv:2205.09123: every gradient is equal, to the bit, and so are value loss and entropy."""
    outputs, batch = on_policy(seed)
    ppo, actor = gradients(clipped, outputs, batch, cfg=BARE), gradients(a2c, outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, ppo, actor)
    sums = [evaluated(loss, outputs, batch, BARE)[0][1] for loss in (clipped, a2c)]
    for name in ("value_loss", "entropy", "ratio", "tokens", "states"):
        assert float(sums[0][name]) == float(sums[1][name]), name
    advantages, logp = batch.experience.advantages, outputs.logp
    weights = batch_weights(batch).tokens  # the policy's terms are -A and -A log p, of one gradient and two values
    assert float(sums[0]["policy_loss"]) == pytest.approx(-float(jnp.sum(weights * advantages)), abs=1e-6)
    assert float(sums[1]["policy_loss"]) == pytest.approx(-float(jnp.sum(weights * advantages * logp)), abs=1e-6)


def test_the_updates_of_ppo_and_a2c_leave_the_same_weights():
    case = random_case(3)
    _, batch = on_policy(3)
    trained = {"policy": jnp.asarray(case["logp"])[:, None], "value": jnp.asarray(case["values"])[:, None]}

    def score(trained, base, batch, key):
        return Outputs(trained["policy"], jnp.exp(trained["policy"]), trained["value"])

    after = []
    for objective in (ppo_objective(score, BARE), a2c_objective(score, A2CConfig())):
        optimizer = optax.rmsprop(0.1)
        state = init_state(jax.tree.map(jnp.copy, trained), optimizer)
        after.append(jax.jit(make_update(objective, optimizer))(state, {}, batch, None)[0].adapters)
    jax.tree.map(np.testing.assert_array_equal, *after)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), after[0], trained)))


@pytest.mark.parametrize("change", ["two epochs", "whitening", "a value clip that acts"])
def test_with_any_of_these_ppo_is_not_a2c(change):
    outputs, batch = on_policy(1)
    cfg, found = BARE, batch.experience
    if change == "two epochs":  # at the second, the policy has moved
        found = found.replace(old_logp=found.old_logp - 0.5)
    elif change == "whitening":
        found = found.replace(advantages=found.advantages / 2)
    else:
        cfg, found = dataclasses.replace(BARE, value_epsilon=0.1), found.replace(old_values=outputs.values + 1)
    ppo, actor = gradients(clipped, outputs, batch.replace(experience=found), cfg=cfg), gradients(a2c, outputs, batch)
    assert any(bool((a != b).any()) for a, b in zip(ppo, actor))


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
def test_padding_is_not_looked_at(name, seed):
    case = random_case(seed)
    dirty = {k: x if k == "mask" else np.where(case["mask"], x, np.nan) for k, x in case.items()}
    for key in ("values", "old_values", "returns"):  # one state more than tokens
        dirty[key] = np.where(
            np.asarray(batch_of(case["mask"], *[case["values"]] * 4).experience.states[:, 0]), case[key], np.nan
        )
    found, grads = evaluated(LOSSES[name], *split_case(dirty), CFG)
    jax.tree.map(np.testing.assert_array_equal, found, evaluated(LOSSES[name], *split_case(case), CFG)[0])
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    assert not np.asarray(grads.logp)[:, 0][~case["mask"]].any()


@pytest.mark.parametrize("name", LOSSES)
def test_rows_without_tokens_give_0(name):
    case = random_case(2)
    case["mask"] = np.zeros_like(case["mask"])
    outputs, batch = split_case(case)
    empty = batch.replace(experience=batch.experience.replace(states=batch.experience.mask))
    (loss, sums), grads = evaluated(LOSSES[name], outputs, empty, CFG)
    assert float(loss) == 0.0 and not any(float(x) for x in mean_metrics(sums).values())
    assert not any(np.asarray(g).any() for g in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_an_order_of_rows_is_none(name):
    outputs, batch = split_case(random_case(4))
    order = jnp.array([3, 1, 5, 0, 2, 4])
    moved = jax.tree.map(lambda x: x[order], outputs), take_rows(batch, order)
    found = [evaluated(LOSSES[name], *arrays, CFG)[0][0] for arrays in (moved, (outputs, batch))]
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize("name", ["clipped", "penalized"])
def test_at_ratio_1_the_gradient_is_that_of_reinforce(name):
    outputs, batch = on_policy(5)
    grads = gradients(LOSSES[name], outputs, batch, cfg=PPOConfig(vf_coef=0.0))
    weights = batch_weights(batch).tokens
    np.testing.assert_allclose(grads.logp, -weights * batch.experience.advantages, rtol=1e-6, atol=1e-8)


def linear(trained, base, batch, key):
    """A policy and a value function whose outputs depend on their row alone."""
    at = batch.completions_BGC
    return Outputs(trained["policy"][at], -jnp.square(trained["policy"][at]), trained["value"][at])


def text(trained, base, rows, key):
    logp = -jnp.square(trained["policy"][rows.tokens_BT])
    return TokenScores(logp, logp, logp > 0)


OBJECTIVES = {"clipped": ppo_objective, "penalized": ppo_penalty_objective, "a2c": a2c_objective}


def full_batch(ptx, seed=0):
    """Six prompts of five tokens, and four other rows of another number of targets each."""
    rng = np.random.default_rng(seed)
    _, batch = split_case(random_case(seed))
    batch = batch.replace(
        completions_BGC=jnp.asarray(rng.integers(0, 9, (6, 1, 5)), jnp.int32), penalty=jnp.float32(0.5)
    )
    tokens = jnp.asarray(rng.integers(0, 9, (4, 3)), jnp.int32)
    targets = jnp.array([[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1]], bool)
    return batch.replace(pretraining=SFTBatch(tokens, tokens // tokens.max(), targets) if ptx else None)


@pytest.mark.parametrize(("name", "ptx"), [*itertools.product(OBJECTIVES, (0.0, 3.0))])
def test_micro_batches_add_up_to_the_batch(name, ptx):
    cfg = A2CConfig(ptx_coef=ptx) if name == "a2c" else dataclasses.replace(CFG, ptx_coef=ptx)
    batch, optimizer = full_batch(ptx), optax.sgd(1.0)
    start = {"policy": jnp.linspace(-1, 1, 9), "value": jnp.linspace(2, -1, 9)}
    found = []
    for parts in (1, 2):
        update = jax.jit(make_update(OBJECTIVES[name](linear, cfg, text), optimizer, micro_batches=parts))
        state, metrics = update(init_state(start, optimizer), {}, batch, None)
        found.append((state.adapters, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    assert ("ptx_loss" in found[0][1]) == bool(ptx)


def test_the_pretraining_loss_by_hand():
    """gamma times the mean negative log-likelihood of the targets of those rows, in value and gradient."""
    batch = full_batch(True)
    start = {"policy": jnp.linspace(-1, 1, 9), "value": jnp.linspace(2, -1, 9)}

    def value(ptx, trained, rows):
        objective = ppo_objective(linear, dataclasses.replace(CFG, ptx_coef=ptx), text if ptx else None)
        return objective.loss(trained, {}, objective.prepare(rows), None)[0]

    def nll(trained):
        rows = batch.pretraining
        picked = trained["policy"][rows.tokens_BT][rows.targets_BT]
        return 27.8 * jnp.mean(jnp.square(picked))

    with_ptx = jax.jit(jax.value_and_grad(lambda trained: value(27.8, trained, batch)))(start)
    without = jax.jit(jax.value_and_grad(lambda trained: value(0.0, trained, batch.replace(pretraining=None))))(start)
    more = jax.value_and_grad(nll)(start)
    want = jax.tree.map(jnp.add, without, more)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), with_ptx, want)


def test_the_entropy_is_raised():
    outputs, batch = split_case(random_case(6))
    assert (np.asarray(gradients(clipped, outputs, batch).entropy)[np.asarray(batch.experience.mask)] < 0).all()


def test_minibatches_have_every_row_once_and_epochs_differ():
    epochs = [np.asarray(minibatch_rows(key, 12, 3)) for key in jax.random.split(jax.random.key(0), 4)]
    for rows in epochs:
        assert rows.shape == (3, 4) and sorted(rows.reshape(-1)) == list(range(12))
    assert len({tuple(rows.reshape(-1)) for rows in epochs}) == 4
    np.testing.assert_array_equal(epochs[0], minibatch_rows(jax.random.split(jax.random.key(0), 4)[0], 12, 3))


def test_a_minibatch_is_its_rows():
    batch = full_batch(True)
    part = take_rows(batch, jnp.array([4, 1]))
    np.testing.assert_array_equal(part.experience.returns, batch.experience.returns[jnp.array([4, 1])])
    assert part.pretraining is batch.pretraining and part.penalty is batch.penalty and len(part.prompts_BP) == 2


REFUSED = {
    "minibatches": (lambda: minibatch_rows(jax.random.key(0), 6, 4), "6 rows in 4 minibatches"),
    "epsilon": (lambda: PPOConfig(epsilon=0.0), "epsilon 0.0"),
    "value epsilon": (lambda: PPOConfig(value_epsilon=0.0), "value_epsilon 0.0"),
    "coefficient": (lambda: PPOConfig(vf_coef=-1.0), "vf_coef -1.0"),
    "coefficient of A2C": (lambda: A2CConfig(entropy_coef=-1.0), "entropy_coef -1.0"),
    "nothing scores the rows": (lambda: ppo_objective(linear, PPOConfig(ptx_coef=1.0)), "no text_score"),
    "no rows": (lambda: ppo_objective(linear, PPOConfig(ptx_coef=1.0), text).prepare(full_batch(False)), "pretraining"),
    "rows for nothing": (lambda: ppo_objective(linear, PPOConfig()).prepare(full_batch(True)), "pretraining"),
    "no penalty": (
        lambda: ppo_penalty_loss(*split_case(random_case()), batch_weights(split_case(random_case())[1]), CFG),
        "no penalty",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused(name):
    call, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        call()
