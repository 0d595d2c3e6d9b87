"""From a rollout and its scores to what the updates need: one compiled function."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp

from experiments.ppo.scoring import make_logp
from experiments.ppo.settings import ActorCriticExperiment, EstimateSettings
from lqlm.algorithms.actor_critic import Experience, PPOBatch, Score
from lqlm.algorithms.gae import Estimates, explained_variance, gae, whiten, whiten_keeping_mean
from lqlm.algorithms.kl_control import (
    less_without_end,
    next_coefficient,
    rewards_at_last_token,
    rewards_from_scores,
    states_mask,
    token_kl,
)
from lqlm.io.load import LoadedModel
from lqlm.masked import masked_mean, masked_sum
from lqlm.types import Array, PyTree


@flax.struct.dataclass
class Judged:
    """A rollout of B prompts with G completions each, and their scores."""

    prompts_BP: Array
    prompt_mask_BP: Array
    completions_BGC: Array
    mask_BGC: Array
    scores_BG: Array  # float32
    ended_BG: Array  # bool, whether the completion came to its end


Found = tuple[PPOBatch, dict[str, Array]]


def make_experience(settings: ActorCriticExperiment, score: Score, model: LoadedModel) -> Callable[..., Found]:
    """``(base, trained, reference, judged, coefficient) -> (PPOBatch, metrics)``.

    Policy and value function are those of the rollout; the reference may be None.  The metrics have TRL's names where
    TRL has such a metric, and ``next_kl_coef``, for the next rollout.
    """
    reference_logp = make_logp(settings, model)

    def experience(base: PyTree, trained: PyTree, reference: PyTree, judged: Judged, coefficient: Array) -> Found:
        batch = _unfinished(judged)
        outputs, mask = score(trained, base, batch, None), judged.mask_BGC
        ref_logp, _ = reference_logp(reference, base, batch, None)
        kl = token_kl(outputs.logp, ref_logp, mask, settings.kl.estimator)
        scores = less_without_end(judged.scores_BG, judged.ended_BG, settings.estimate.missing_eos)
        states, found = estimates(scores, kl, coefficient, outputs.values, mask, settings.estimate)
        advantages = whiten(found.advantages, mask) if settings.estimate.whiten_advantages else found.advantages
        fixed = Experience(mask, states, outputs.logp, outputs.values, advantages, found.returns)
        metrics = objective_metrics(outputs.logp, kl, scores, coefficient, mask)
        metrics |= value_metrics(outputs.values, found.returns, states)
        metrics["next_kl_coef"] = next_coefficient(coefficient, metrics["objective/kl"], settings.kl)
        return batch.replace(experience=fixed), metrics  # type: ignore[attr-defined]

    return experience


def _unfinished(judged: Judged) -> PPOBatch:
    """A batch that can be scored: of the experience, the mask is all that this looks at."""
    mask: Any = judged.mask_BGC
    nothing = Experience(mask, mask, *[None] * 4)  # type: ignore[arg-type]
    return PPOBatch(judged.prompts_BP, judged.prompt_mask_BP, judged.completions_BGC, nothing)


def estimates(
    scores: Array, kl: Array, coefficient: Array, values: Array, mask: Array, settings: EstimateSettings
) -> tuple[Array, Estimates]:
    """States where values are fitted, bool [B, G, C], and advantages (not whitened) and returns there."""
    after = settings.score_at == "after"
    states = states_mask(mask) if after else mask
    rewards = (rewards_from_scores if after else rewards_at_last_token)(scores, kl, coefficient, mask)
    if settings.whiten_rewards:
        rewards = whiten_keeping_mean(rewards, states)
    return states, gae(rewards, values, states, gamma=settings.gamma, lam=settings.lam)


def objective_metrics(logp: Array, kl: Array, scores: Array, coefficient: Array, mask: Array) -> dict[str, Array]:
    """Means over completions of their sums, under TRL's names, and ``kl`` in nats per token."""
    per_completion = jnp.mean(jnp.sum(kl, axis=-1))
    non_score = -coefficient * per_completion
    return {
        "kl": masked_mean(kl, mask),
        "kl_coef": coefficient,
        "objective/kl": per_completion,
        "objective/entropy": jnp.mean(masked_sum(-logp, mask, axis=-1)),
        "objective/non_score_reward": non_score,
        "objective/rlhf_reward": non_score + jnp.mean(scores),
        "objective/scores": jnp.mean(scores),
    }


def value_metrics(values: Array, returns: Array, states: Array) -> dict[str, Array]:
    """How well the value function knew the rollout beforehand."""
    return {
        "value/mean": masked_mean(values, states),
        "value/returns_mean": masked_mean(returns, states),
        "value/explained_variance": explained_variance(values, returns, states),
    }
