"""The cases of tests/goldens/make_preference.py in lqlm's own terms."""

import dataclasses

import jax
import jax.numpy as jnp

from lqlm.algorithms import dpo, pairs, policy, reward_model
from lqlm.logprobs import TokenStatistics

TYPES = {field.name: type(getattr(dpo.DPOConfig(), field.name)) for field in dataclasses.fields(dpo.DPOConfig)}
REWARD = {"plain": (False, 0.0), "margin": (True, 0.0), "center": (False, 0.01), "both": (True, 0.1)}


def dpo_config(case):
    """``ipo|divergence=js_divergence`` -> DPOConfig(loss="ipo", divergence="js_divergence")."""
    loss, *changes = case.split("|")
    given = dict(change.split("=") for change in changes)
    return dpo.DPOConfig(loss=loss, **{name: TYPES[name](value) for name, value in given.items()})


def batch_of(inputs):
    mask = jnp.asarray(inputs["mask"])
    prompts = jnp.zeros((len(mask), 1), jnp.int32)
    ref = jnp.asarray(inputs["ref_logp"])
    return pairs.PairBatch(
        prompts, jnp.ones_like(prompts, bool), mask.astype(jnp.int32), mask, jnp.zeros(len(mask)), ref
    )


def our_dpo(inputs, cfg):
    """Loss, gradient [B, 2, C] and metrics of dpo_loss on the stored arrays."""
    batch = batch_of(inputs)
    weights = pairs.pair_weights(pairs.real_pairs(batch.completion_mask_BGC))
    tokens = policy.token_weights(batch.completion_mask_BGC[:, 0], "token")

    @jax.jit
    def run(logp):
        seen = TokenStatistics(*(jnp.asarray(inputs[name]) for name in TokenStatistics._fields))
        return dpo.dpo_loss(logp, seen, batch, cfg, weights, tokens)

    (loss, sums), grad = jax.value_and_grad(run, has_aux=True)(jnp.asarray(inputs["logp"]))
    return {"loss": loss, "grad": grad, **dpo.mean_metrics(sums)}


def our_reward(inputs, with_margin, center):
    """Loss, gradient [B, 2] and metrics of the Bradley-Terry loss on the stored arrays."""
    rewards, cfg = jnp.asarray(inputs["rewards"]), reward_model.RewardModelConfig(center=center)
    margin = jnp.asarray(inputs["margins"]) if with_margin else jnp.zeros(len(rewards))

    def loss(rewards):
        return jnp.mean(reward_model.pair_losses(rewards[:, 0], rewards[:, 1], margin, cfg))

    value, grad = jax.value_and_grad(loss)(rewards)
    metrics = reward_model.reward_metrics(rewards[:, 0], rewards[:, 1], jnp.ones(len(rewards), bool))
    return {"loss": value, "grad": grad, **metrics}
