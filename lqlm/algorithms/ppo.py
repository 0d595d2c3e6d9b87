"""Proximal policy optimization with a value function, as functions of arrays (arXiv:1707.06347).

Value and gradient of the clipped form equal those of TRL's PPOTrainer (1.12) for a whole minibatch.  TRL takes the mean
of means over its micro-batches, and there the length of a neighbour changes what a token weighs; here the weights are
those of the minibatch however it is split.
"""

import dataclasses

import jax.numpy as jnp

from lqlm import logprobs
from lqlm.algorithms import policy
from lqlm.algorithms.actor_critic import Outputs, PPOBatch, Score, TextScore, Weights, actor_critic
from lqlm.algorithms.actor_critic_terms import entropy_part, policy_terms, token_sum, token_sums, value_part
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """The loss of PPO; the defaults are those of TRL 1.12 and of arXiv:2403.17031."""

    epsilon: float = 0.2  # the ratio is rewarded within 1 - epsilon and 1 + epsilon
    value_epsilon: float | None = 0.2  # values are rewarded for a move of up to so much; None: any move
    vf_coef: float = 0.1  # weight of the value loss
    entropy_coef: float = 0.0  # weight of the entropy, which is raised
    ptx_coef: float = 0.0  # weight of the likelihood of other rows, PPO-ptx (InstructGPT: 27.8)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if not 0 < self.epsilon < 1:
            raise UserError(f"PPOConfig: epsilon {self.epsilon}: take a number between 0 and 1")
        if self.value_epsilon is not None and self.value_epsilon <= 0:
            raise UserError(f"PPOConfig: value_epsilon {self.value_epsilon}: take a number above 0, or None")
        for name in ("vf_coef", "entropy_coef", "ptx_coef"):
            if getattr(self, name) < 0:
                raise UserError(f"PPOConfig: {name} {getattr(self, name)}: take 0 or more")


def penalized_surrogate(
    logp: Array, old_logp: Array, advantages: Array, mask: Array, penalty: float | Array
) -> tuple[Array, Array]:
    """Objective per token without clipping, ``r A - beta KL[old, new]``, to be maximised (arXiv:1707.06347, section 4).

    The divergence is estimated at the tokens of the old policy: ``r - 1 - log r``, never negative (k3).

    Args:
      logp: [..., C] under the policy; the argument with a gradient.
      old_logp: [..., C] under the policy that drew the tokens.
      advantages: [..., C].
      mask: [..., C], true at real tokens.
      penalty: beta, such as of `lqlm.algorithms.kl_control.next_penalty`.

    Returns:
      (objective [..., C], divergence [..., C]).
    """
    ratio = policy.importance_ratio(logp, old_logp, mask)
    kl = logprobs.k3(jnp.where(mask, old_logp, 0.0), jnp.where(mask, logp, 0.0))
    return ratio * advantages - penalty * kl, kl


def ppo_loss(outputs: Outputs, batch: PPOBatch, weights: Weights, cfg: PPOConfig) -> tuple[Array, Metrics]:
    """``-sum w min(r A, clip(r, 1 +- epsilon) A) + vf_coef sum w' value error - entropy_coef sum w H``.

    PPO (arXiv:1707.06347), equations 7 and 9.

    Args:
      outputs: of policy and value function, for the completions of the batch.
      batch: or a part of one.
      weights: of the full batch.
      cfg: the constants of the loss.

    Returns:
      (loss [], sums): the metrics add up over micro-batches.
    """
    logp, old_logp, advantages, mask = policy_terms(outputs, batch)
    ratio = policy.importance_ratio(logp, old_logp, mask)
    policy_term = -policy.clipped_surrogate(ratio, advantages, cfg.epsilon, cfg.epsilon)
    clipped = policy.clipped_tokens(ratio, advantages, cfg.epsilon, cfg.epsilon)
    clips = {"clip_ratio/low_mean": clipped.low, "clip_ratio/high_mean": clipped.high}
    clips["clip_ratio/region_mean"] = clipped.low | clipped.high
    sums = {name: token_sum(x, mask) for name, x in clips.items()}
    return _with_values(jnp.sum(weights.tokens * policy_term), sums, outputs, batch, weights, cfg)


def ppo_penalty_loss(outputs: Outputs, batch: PPOBatch, weights: Weights, cfg: PPOConfig) -> tuple[Array, Metrics]:
    """`ppo_loss` with `penalized_surrogate` in the place of the clipped one; ``cfg.epsilon`` is not used.

    Args:
      outputs: of policy and value function, for the completions of the batch.
      batch: or a part of one; its ``penalty`` is beta.
      weights: of the full batch.
      cfg: the constants of the loss.

    Returns:
      (loss [], sums) as of `ppo_loss`; ``old_kl``, the divergence from the old policy, in the place of the clip ratios.

    Raises:
      UserError: where the batch has no penalty.
    """
    if batch.penalty is None:
        raise UserError("ppo_penalty_loss: the batch has no penalty: give it the coefficient beta")
    objective, kl = penalized_surrogate(*policy_terms(outputs, batch), batch.penalty)
    sums = {"old_kl": token_sum(kl, batch.experience.mask)}
    return _with_values(-jnp.sum(weights.tokens * objective), sums, outputs, batch, weights, cfg)


def _with_values(
    policy_loss: Array, sums: Metrics, outputs: Outputs, batch: PPOBatch, weights: Weights, cfg: PPOConfig
) -> tuple[Array, Metrics]:
    """The policy's part of the loss, and what every form of it has beside that."""
    value_loss, value_sums = value_part(outputs, batch.experience, weights.states, cfg.value_epsilon)
    loss = policy_loss + cfg.vf_coef * value_loss - cfg.entropy_coef * entropy_part(outputs, batch, weights)
    terms = {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss}
    return loss, terms | sums | value_sums | token_sums(outputs, batch)


def ppo_objective(score: Score, cfg: PPOConfig, text_score: TextScore | None = None) -> Objective:
    """Clipped PPO as `lqlm.algorithms.step.make_update` takes it, for batches of type `PPOBatch`.

    Args:
      score: ``(trained, base, batch, key) -> Outputs`` of the completions of a batch, whose B is that of a micro-batch;
        ``trained`` holds both the policy's and the value function's adapters.
      cfg: the constants of the loss.
      text_score: of the pretraining rows, where ``cfg.ptx_coef`` is not 0.

    Returns:
      An `Objective`; its metrics are means over tokens, those of values over states.
    """
    return actor_critic(score, lambda outputs, batch, w: ppo_loss(outputs, batch, w, cfg), cfg.ptx_coef, text_score)


def ppo_penalty_objective(score: Score, cfg: PPOConfig, text_score: TextScore | None = None) -> Objective:
    """`ppo_objective` with `ppo_penalty_loss`.

    Args:
      score: as in `ppo_objective`.
      cfg: the constants of the loss.
      text_score: as in `ppo_objective`.

    Returns:
      An `Objective`; its metrics are means over tokens, those of values over states.
    """
    return actor_critic(
        score, lambda outputs, batch, w: ppo_penalty_loss(outputs, batch, w, cfg), cfg.ptx_coef, text_score
    )
