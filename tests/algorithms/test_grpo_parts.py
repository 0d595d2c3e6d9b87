"""The objective in micro-batches: the gradient and the metrics are those of the whole batch; demonstrations."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.algorithms import policy
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_loss, grpo_objective
from lqlm.algorithms.step import init_state, make_update
from lqlm.algorithms.surrogates import Cispo, Sapo, SequenceClip, SummedClip, TokenClip, Vespo
from lqlm.errors import UserError
from tests.algorithms.test_grpo import rollouts

SHAPE = (4, 3, 5)
EVERY = GRPOConfig(
    0.05, 0.1, kl="k3_corrected", surrogate=TokenClip(1.3), off_policy_mask_threshold=0.1, entropy_coef=0.1
)
CONFIGS = {
    "sequence": GRPOConfig(0.05, 0.1),
    "token": dataclasses.replace(EVERY, reduction="token"),
    "gspo": dataclasses.replace(EVERY, surrogate=SequenceClip()),
    "rloo": GRPOConfig(0.05, 0.1, 0.0, surrogate=SummedClip(), reduction="sequence_sum"),
    "cispo": GRPOConfig(beta=0.0, surrogate=Cispo(1.1), reduction="token"),
    "vespo": GRPOConfig(beta=0.0, surrogate=Vespo(), reduction="token"),
    "sapo": GRPOConfig(surrogate=Sapo()),
}


def batch_of(more=0):
    """Rows that say which part of the parameters they are: prompt b's token is b."""
    logp, old, ref, advantages, mask = rollouts(SHAPE)
    wide = lambda x: jnp.concatenate([x, x[:, :more]], axis=1)  # noqa: E731
    prompts = jnp.arange(len(mask), dtype=jnp.int32)[:, None]
    completions = jnp.zeros(wide(mask).shape, jnp.int32)
    batch = GRPOBatch(prompts, prompts >= 0, completions, wide(mask), advantages, wide(old), wide(ref))
    return wide(logp), batch


def score(logp, base, batch, key):
    found = logp[batch.prompts_BP[:, 0]]
    return found, jnp.square(found)


def updated(cfg, parts, batch, logp):
    """Gradient and metrics of one update in so many parts."""
    update = make_update(grpo_objective(score, cfg, micro_batches=parts), optax.sgd(1.0), micro_batches=parts)
    state, metrics = jax.jit(update)(init_state(logp, optax.sgd(1.0)), {}, batch, None)
    return logp - state.adapters, metrics


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_add_up(name):
    logp, batch = batch_of()
    whole, parts = (updated(CONFIGS[name], n, batch, logp) for n in (1, 2))
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
    if name in ("sequence", "token", "gspo", "rloo"):
        metrics = whole[1]
        assert 0 <= metrics["clip_ratio/low_min"] <= metrics["clip_ratio/low_mean"] < 1
        assert metrics["clip_ratio/high_mean"] < metrics["clip_ratio/high_max"] <= 1
    assert float(jnp.abs(whole[0]).sum()) > 0


def test_the_reduction_by_micro_batch_is_the_mean_of_what_its_parts_give_alone():
    logp, batch = batch_of()
    cfg = GRPOConfig(beta=0.0, reduction="micro_batch")
    gradient, metrics = updated(cfg, 2, batch, logp)
    alone = [grpo_loss(*[x[i : i + 2] for x in rollouts(SHAPE)], cfg)[0] for i in (0, 2)]
    np.testing.assert_allclose(metrics["loss"], np.mean(alone), rtol=1e-5)
    assert np.abs(gradient - updated(cfg, 1, batch, logp)[0]).max() > 1e-3  # it depends on the split
    by_hand = policy.token_weights(jnp.array([[True, True], [True, False]]), "micro_batch", parts=2)
    np.testing.assert_allclose(by_hand, [[0.25, 0.25], [0.5, 0.0]])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_demonstration_adds_its_likelihood_to_groups_that_fail(parts):
    logp, batch = batch_of(more=1)
    cfg = GRPOConfig(reduction="token")
    plain = updated(cfg, 1, batch_of()[1], logp[:, :3])
    weights = jnp.array([0.0, 0.5, 0.0, 0.5])
    gradient, metrics = updated(cfg, parts, dataclasses.replace(batch, demonstration_B=weights), logp)
    np.testing.assert_allclose(gradient[:, :3], plain[0], rtol=1e-5, atol=1e-7)  # demonstrations change no other token
    counts = np.asarray(batch.completion_mask_BGC[:, 3]).sum(-1, keepdims=True)
    want = np.where(batch.completion_mask_BGC[:, 3], -np.asarray(weights)[:, None] / 4 / counts, 0.0)
    np.testing.assert_allclose(gradient[:, 3], want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["loss"], plain[1]["loss"] + metrics["sft_loss"], rtol=1e-5)
    assert float(metrics["tokens"]) == float(plain[1]["tokens"])


def test_advantages_of_tokens_teach_their_tokens():
    logp, _, _, advantages, mask = rollouts(SHAPE)
    cfg = GRPOConfig(beta=0.0)
    every = jnp.broadcast_to(advantages[..., None], mask.shape)
    np.testing.assert_allclose(
        grpo_loss(logp, None, None, every, mask, cfg)[0],
        grpo_loss(logp, None, None, advantages, mask, cfg)[0],
        rtol=1e-6,
    )
    single = jnp.zeros_like(every).at[0, 0, 0].set(1.0)
    gradient = jax.grad(lambda x: grpo_loss(x, None, None, single, mask, cfg)[0])(logp)
    assert np.flatnonzero(np.asarray(gradient)).tolist() == [0]


def test_the_divergence_acts_where_it_is_said_to():
    arrays = rollouts(SHAPE)
    kl = 0.3
    in_loss, in_reward = (GRPOConfig(beta=kl, kl="k2", kl_place=place) for place in ("loss", "reward"))
    none = grpo_loss(*arrays, GRPOConfig(beta=0.0))[0]
    np.testing.assert_allclose(grpo_loss(*arrays, in_reward)[0], none, rtol=1e-6)
    assert abs(float(grpo_loss(*arrays, in_loss)[0] - none)) > 1e-3
    old, ref, rewards, mask = arrays[1:]
    by_hand = rewards - kl * jnp.sum(jnp.where(mask, 0.5 * jnp.square(old - ref), 0.0), -1)
    np.testing.assert_allclose(policy.penalized_rewards(rewards, old, ref, mask, kl, "k2"), by_hand, rtol=1e-5)


BAD = [
    lambda: GRPOConfig(kl="k3_corrected", kl_place="reward"),
    lambda: GRPOConfig(kl_place="both"),
    lambda: GRPOConfig(top_entropy_quantile=0.0),
    lambda: grpo_loss(*rollouts(SHAPE), GRPOConfig(top_entropy_quantile=0.5)),
    lambda: TokenClip(delta=0.5),
    lambda: Cispo(0.0),
    lambda: Sapo(0.0),
    lambda: Vespo((0.0, 1.0)),
]


@pytest.mark.parametrize("make", BAD)
def test_settings_without_meaning_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_the_least_share_of_a_sequence_passes_over_those_without_tokens():
    """One clipped sequence and an empty one: the least share is 1, not 0."""
    logp, batch = jnp.full((1, 2, 3), -3.0), batch_of()[1]
    mask = jnp.array([[[True, True, False], [False] * 3]])
    batch = GRPOBatch(
        batch.prompts_BP[:1], batch.prompt_mask_BP[:1], jnp.zeros(mask.shape, jnp.int32), mask, -jnp.ones((1, 2))
    )
    batch = batch.replace(old_logp_BGC=jnp.full(mask.shape, -1.0))
    metrics = updated(GRPOConfig(beta=0.0), 1, batch, logp)[1]
    assert float(metrics["clip_ratio/low_min"]) == 1.0 and float(metrics["clip_ratio/high_max"]) == 0.0
