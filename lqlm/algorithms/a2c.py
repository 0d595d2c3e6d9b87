"""Advantage actor-critic as a function of arrays (Mnih et al. 2016, arXiv:1602.01783, the synchronous form).

It is PPO of one epoch over the full batch, without clipping of values and whitening of advantages (Huang et al. 2022,
arXiv:2205.09123): with a ratio of 1, ``-A r`` and ``-A log p`` have one gradient.
"""

import dataclasses

import jax.numpy as jnp

from lqlm.algorithms.actor_critic import Outputs, PPOBatch, Score, TextScore, Weights, actor_critic
from lqlm.algorithms.actor_critic_terms import entropy_part, policy_terms, token_sums, value_part
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class A2CConfig:
    """The loss of A2C; the defaults are those of arXiv:1602.01783."""

    vf_coef: float = 0.5  # weight of the value loss
    entropy_coef: float = 0.01  # weight of the entropy, which is raised
    ptx_coef: float = 0.0  # weight of the likelihood of other rows

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        for name in ("vf_coef", "entropy_coef", "ptx_coef"):
            if getattr(self, name) < 0:
                raise UserError(f"A2CConfig: {name} {getattr(self, name)}: take 0 or more")


def a2c_loss(outputs: Outputs, batch: PPOBatch, weights: Weights, cfg: A2CConfig) -> tuple[Array, Metrics]:
    """``-sum w A log p + vf_coef sum w' 0.5 (V - R)^2 - entropy_coef sum w H``.

    Args:
      outputs: of policy and value function, for the completions of the batch.
      batch: or a part of one; its old log-probabilities and values serve the metrics only.
      weights: of the full batch, as from `lqlm.algorithms.actor_critic.batch_weights`.
      cfg: the constants of the loss.

    Returns:
      (loss [], sums): the metrics add up over micro-batches; `lqlm.algorithms.actor_critic.mean_metrics` finishes them.
    """
    tokens = policy_terms(outputs, batch)
    policy_loss = -jnp.sum(weights.tokens * tokens.advantages * tokens.logp)
    value_loss, sums = value_part(outputs, batch.experience, weights.states, None)
    loss = policy_loss + cfg.vf_coef * value_loss - cfg.entropy_coef * entropy_part(outputs, batch, weights)
    terms = {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss}
    return loss, terms | sums | token_sums(outputs, batch)


def a2c_objective(score: Score, cfg: A2CConfig, text_score: TextScore | None = None) -> Objective:
    """A2C as `lqlm.algorithms.step.make_update` takes it, for batches of type `lqlm.algorithms.actor_critic.PPOBatch`.

    Args:
      score: as in `lqlm.algorithms.ppo.ppo_objective`.
      cfg: the constants of the loss.
      text_score: of the pretraining rows, where ``cfg.ptx_coef`` is not 0.

    Returns:
      An `Objective`.
    """
    return actor_critic(score, lambda outputs, batch, w: a2c_loss(outputs, batch, w, cfg), cfg.ptx_coef, text_score)
