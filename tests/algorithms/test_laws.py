"""Every loss through the same laws; a new one joins by one line in LOSSES."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms import policy
from lqlm.algorithms.a2c import A2CConfig, a2c_objective
from lqlm.algorithms.actor_critic import Experience, Outputs, PPOBatch
from lqlm.algorithms.dpo import DPOConfig, dpo_objective
from lqlm.algorithms.dpo_config import SMOOTHED, WHOLE_BATCH, Loss
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.ppo import PPOConfig, ppo_objective, ppo_penalty_objective
from lqlm.algorithms.reward_model import RewardLoss, RewardModelConfig, reward_model_objective
from lqlm.algorithms.step import Objective
from lqlm.logprobs import TokenStatistics
from tests.algorithms.trl_family import FAMILY, LENGTH

SHAPE = (2, 3, 5)
GROUP, PAIR = 3, 2
JUNK = (jnp.nan, jnp.inf, -jnp.inf, 900.0, jnp.nan, jnp.inf)
ENTROPY = {"high_entropy", "entropy_bonus", "everything"}


class Law(NamedTuple):
    """A loss as the harness takes it: its parameters are the log-probabilities of the completions themselves.

    Attributes:
      objective: whose adapters are ``logp`` [B, G, C].
      batch: of the arrays that `arrays` makes.
      group: completions of a prompt: 2 for pairs.
      reduction: of the token weights with which its gradient at ratio 1 is that of REINFORCE; None: it has no ratio.
      sequence: whether its ratio is that of a whole sequence, by the mean (1) or the sum (2) of the log ratios.
      every_row: whether it needs every row to be a pair, because it sorts them.
    """

    objective: Objective
    batch: Callable[[dict[str, Any]], Any]
    group: int = GROUP
    reduction: policy.Reduction | None = None
    sequence: int = 0
    every_row: bool = False


def arrays(group=GROUP, seed=0):
    """Ragged rollouts with some distance between the three policies."""
    shape = (SHAPE[0], group, SHAPE[2])
    rng = np.random.default_rng(seed)
    logp = -rng.gamma(2.0, 0.5, shape)
    found = {"logp": logp, "old": logp + rng.normal(0, 0.2, shape), "ref": logp + rng.normal(0, 0.3, shape)}
    found |= {
        "entropy": rng.gamma(2.0, 0.5, shape),
        "values": rng.normal(size=shape),
        "returns": rng.normal(size=shape),
    }
    found = {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}
    lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
    lengths[0] = shape[-1] - np.arange(group)
    mask = jnp.asarray(np.arange(shape[-1]) < lengths[..., None])
    return found | {"mask": mask, "advantages": jnp.asarray(rng.normal(size=shape[:-1]), jnp.float32)}


def empty(x):
    """Prompts and completions, which no loss looks at."""
    prompt = jnp.zeros((len(x["mask"]), 1), jnp.int32)
    return prompt, prompt == 0, jnp.zeros(x["mask"].shape, jnp.int32)


def grpo(cfg):
    def score(logp, base, batch, key):
        return logp, base

    def batch(x):
        made = GRPOBatch(*empty(x), x["mask"], x["advantages"], x["old"], x["ref"])
        return made, x["entropy"]

    kind = type(cfg.surrogate).__name__
    objective = with_entropy(grpo_objective(score, cfg))
    reduction = None if cfg.entropy_coef or cfg.top_entropy_quantile < 1 else cfg.reduction
    return Law(objective, batch, GROUP, reduction, {"SequenceClip": 1, "SummedClip": 2}.get(kind, 0))


def with_entropy(inner):
    """An objective whose batch is beside the entropies, which stand where the base does."""

    def loss(logp, base, part, key):
        return inner.loss(logp, part[1], part[0], key)

    return Objective(loss, lambda batch: (inner.prepare(batch[0]), batch[1]), inner.finish)


def actor_critic(make, cfg):
    def score(logp, base, batch, key):
        return Outputs(logp, jnp.zeros_like(logp), batch.experience.old_values)

    def batch(x):
        advantages = jnp.broadcast_to(x["advantages"][..., None], x["mask"].shape)
        experience = Experience(x["mask"], x["mask"], x["old"], x["values"], advantages, x["returns"])
        return PPOBatch(*empty(x), experience, penalty=jnp.float32(0.3))

    return Law(make(score, cfg), batch, GROUP, "token")


def pairs(make, cfg, score):
    def batch(x):
        return PairBatch(*empty(x), x["mask"], jnp.zeros(len(x["mask"]), jnp.float32), x["ref"])

    return Law(make(score, cfg), batch, PAIR, every_row=getattr(cfg, "loss", "") in WHOLE_BATCH)


def sides(logp, base, batch, key):
    return logp, TokenStatistics(*(jnp.zeros_like(logp),) * 3, logp > 0)


def sums(logp, base, batch, key):
    return jnp.sum(jnp.where(batch.completion_mask_BGC, logp, 0.0), axis=-1)


LOSSES = {
    "grpo": grpo(GRPOConfig()),
    "dapo": grpo(GRPOConfig(epsilon_high=0.28, beta=0.0, reduction="token")),
    "dr_grpo": grpo(GRPOConfig(beta=0.0, reduction="constant", max_length=LENGTH)),
    **{name: grpo(cfg) for name, cfg in FAMILY.items()},
    "ppo": actor_critic(ppo_objective, PPOConfig()),
    "ppo_penalty": actor_critic(ppo_penalty_objective, PPOConfig()),
    "a2c": actor_critic(a2c_objective, A2CConfig()),
    **{
        f"dpo_{loss}": pairs(dpo_objective, DPOConfig(loss=loss, label_smoothing=0.1 * (loss in SMOOTHED)), sides)
        for loss in get_args(Loss)
    },
    "dpo_length_desensitized": pairs(dpo_objective, DPOConfig(tail=0.5, sft_weight=0.2), sides),
    **{
        f"reward_model_{loss}": pairs(reward_model_objective, RewardModelConfig(loss=loss, center=0.01), sums)
        for loss in get_args(RewardLoss)
        if loss != "regression"  # which is none of pairs
    },
}
EACH = pytest.mark.parametrize("law", LOSSES.values(), ids=LOSSES)
WITH_RATIO = {name: law for name, law in LOSSES.items() if law.reduction}


TRACES = collections.Counter()


def evaluate(law, x):
    """Loss, finished metrics, and the gradient with respect to the log-probabilities."""
    TRACES[id(law)] += 1

    def loss(logp):
        return law.objective.loss(logp, {}, law.objective.prepare(law.batch(x)), None)

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(x["logp"])
    return value, law.objective.finish({**found, "loss": value}), gradient


compiled = jax.jit(evaluate, static_argnums=0)


def changed(x, change):
    return {name: change(name, value) for name, value in x.items()}


@EACH
def test_jit_equals_eager(law):
    x = arrays(law.group)
    want = evaluate(law, x)
    chex.assert_trees_all_close(compiled(law, x), want, rtol=1e-5, atol=1e-6)
    chex.assert_tree_all_finite(want)


@EACH
def test_the_second_call_compiles_nothing(law):
    first = compiled(law, arrays(law.group))
    traced = TRACES[id(law)]
    second = compiled(law, arrays(law.group, seed=1))
    assert TRACES[id(law)] == traced > 0 and float(first[0]) != float(second[0])


@EACH
def test_the_order_of_completions_and_of_prompts_does_not_matter(law):
    x = arrays(law.group)
    value, metrics, gradient = compiled(law, x)
    orders = [(0, [1, 0])] + ([(1, [2, 0, 1])] if law.group == GROUP else [])  # a pair's sides have names
    for axis, order in orders:
        permuted = compiled(law, changed(x, lambda name, v, a=axis, o=order: jnp.take(v, jnp.array(o), axis=a)))
        chex.assert_trees_all_close(permuted[:2], (value, metrics), rtol=1e-5, atol=1e-6)
        wanted = jnp.take(gradient, jnp.array(order), axis=axis)
        np.testing.assert_allclose(permuted[2], wanted, rtol=1e-5, atol=1e-7)


@EACH
def test_padding_changes_nothing(law):
    x, extra, length = arrays(law.group), 3, SHAPE[-1]
    value, metrics, gradient = compiled(law, x)
    junk = iter(JUNK)

    def widen(name, v):
        if name == "advantages":
            return v
        fill = False if name == "mask" else next(junk)
        wide = jnp.pad(v, ((0, 0), (0, 0), (0, extra)), constant_values=fill)
        return wide if name == "mask" else jnp.where(jnp.pad(x["mask"], ((0, 0), (0, 0), (0, extra))), wide, fill)

    wide = compiled(law, changed(x, widen))
    chex.assert_trees_all_close(wide[:2], (value, metrics), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wide[2][..., :length], gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(wide[2][..., length:], 0.0)


@pytest.mark.parametrize("name", [name for name, law in LOSSES.items() if not law.every_row])
def test_a_row_without_tokens_weighs_nothing(name):
    law = LOSSES[name]
    x = arrays(law.group)
    rows = (0,) if law.group == PAIR else (0, 1)  # a pair without a side is no pair
    x["mask"] = x["mask"].at[rows].set(False)
    value, metrics, gradient = compiled(law, x)
    chex.assert_tree_all_finite((value, metrics, gradient))
    np.testing.assert_array_equal(gradient[rows], 0.0)
    assert np.abs(gradient[1]).sum() > 0
    nothing = compiled(law, x | {"mask": jnp.zeros_like(x["mask"])})
    assert float(nothing[0]) == 0.0
    chex.assert_tree_all_finite(nothing)


@pytest.mark.parametrize("name", WITH_RATIO)
def test_ratio_one_gives_the_gradient_of_reinforce(name):
    law = WITH_RATIO[name]
    x = arrays()
    x |= {"old": x["logp"], "ref": x["logp"]}  # a divergence of zero has a gradient of zero, but for k1
    gradient = compiled(law, x)[2]
    weights = policy.token_weights(x["mask"], law.reduction, max_length=LENGTH)
    if law.sequence == 1:  # every token of a sequence gets the mean of what its tokens weigh: they weigh the same
        counts = jnp.sum(x["mask"].astype(jnp.float32), -1, keepdims=True)
        weights = jnp.where(x["mask"], jnp.sum(weights, -1, keepdims=True) / counts, 0.0)
    if law.sequence == 2:
        weights = jnp.where(x["mask"], jnp.sum(weights, -1, keepdims=True), 0.0)
    np.testing.assert_allclose(gradient, -weights * x["advantages"][..., None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", WITH_RATIO)
def test_scaled_rewards_scale_the_gradient(name):
    """At ratio 1; advantages that were normalised have lost the scale before."""
    law, x = WITH_RATIO[name], arrays()
    x |= {"old": x["logp"], "ref": x["logp"]}
    gradient = compiled(law, x)[2]
    scaled = compiled(law, x | {"advantages": 3.0 * x["advantages"]})[2]
    np.testing.assert_allclose(scaled, 3.0 * gradient, rtol=1e-5, atol=1e-7)
