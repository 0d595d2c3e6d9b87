"""What the losses of an actor and a critic share: a batch of rollouts, its weights and metrics, and its minibatches.

A loss is a sum of weighted terms, and the weights are those of a whole minibatch: however it is split into
micro-batches, the gradients of the parts add up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms import policy
from lqlm.algorithms.sft import SFTBatch, nll_loss, target_weights
from lqlm.algorithms.step import Metrics, Objective
from lqlm.errors import UserError
from lqlm.logprobs import TokenScores
from lqlm.types import Array, Key, PyTree


@flax.struct.dataclass
class Experience:
    """What was found out about a rollout, and stays fixed during the updates on it; all [..., C]."""

    mask: Array  # bool, true at the tokens that the policy drew
    states: Array  # bool, true where the value function is fitted, such as `lqlm.algorithms.kl_control.states_mask`
    old_logp: Array  # float32, under the policy that drew the tokens
    old_values: Array  # float32, of the value function then
    advantages: Array  # float32, as they enter the loss
    returns: Array  # float32, what the values are fitted to


@flax.struct.dataclass
class PPOBatch:
    """Rollouts of B prompts with G completions each; prompts left-padded, completions right-padded."""

    prompts_BP: Array  # int32
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32
    experience: Experience  # of [B, G, C]; its mask is true up to and including the EOS
    penalty: Array | None = None  # float32 [], for `ppo_penalty_objective`
    pretraining: SFTBatch | None = None  # other rows, of any number, where ptx_coef is not 0


class Outputs(NamedTuple):
    """What policy and value function say now about the tokens of a batch; float32 [..., C]."""

    logp: Array
    entropy: Array  # of each token's distribution; needs a gradient only where it has a weight
    values: Array


class Weights(NamedTuple):
    """Weight of each token in its sum over a full batch; float32."""

    tokens: Array  # [..., C]
    states: Array  # [..., C]
    targets: Array | None = None  # [B, T] of the pretraining rows


Score = Callable[[PyTree, PyTree, PPOBatch, Any], Outputs]
TextScore = Callable[[PyTree, PyTree, SFTBatch, Any], TokenScores]
Loss = Callable[[Outputs, PPOBatch, Weights], tuple[Array, Metrics]]


def batch_weights(batch: PPOBatch) -> Weights:
    """Weights of a full batch: means over all real tokens, over all states, and over all pretraining targets.

    Args:
      batch: whole, not a part of it.

    Returns:
      `Weights`.
    """
    found = [policy.token_weights(mask, "token") for mask in (batch.experience.mask, batch.experience.states)]
    text = None if batch.pretraining is None else target_weights(batch.pretraining.targets_BT)
    return Weights(found[0], found[1], text)


def actor_critic(score: Score, loss: Loss, ptx_coef: float = 0.0, text_score: TextScore | None = None) -> Objective:
    """Any loss of `Outputs`, and the likelihood of other rows beside it: ``loss + ptx_coef NLL`` (arXiv:2203.02155).

    Args:
      score: ``(trained, base, batch, key) -> Outputs`` of the completions of a batch.
      loss: ``(outputs, batch, weights) -> (value [], sums)``.
      ptx_coef: 0 for no other rows.
      text_score: of the other rows, ``(trained, base, rows, key) -> TokenScores``.

    Returns:
      An `Objective`.

    Raises:
      UserError: where a coefficient has no rows that it could weigh; that of a batch, when it is traced.
    """
    if ptx_coef and text_score is None:
        raise UserError(f"ptx_coef {ptx_coef} but no text_score: give what scores the pretraining rows, or ptx_coef 0")

    def prepare(batch: PPOBatch) -> tuple[PPOBatch, Weights]:
        if bool(ptx_coef) != (batch.pretraining is not None):
            raise UserError(f"ptx_coef {ptx_coef}: pretraining rows belong to the batch if it is not 0, and only then")
        return batch, batch_weights(batch)

    def value(trained: PyTree, base: PyTree, part: tuple[PPOBatch, Weights], key: Any) -> tuple[Array, Metrics]:
        batch, weights = part
        found, sums = loss(score(trained, base, batch, key), batch, weights)
        if batch.pretraining is None:
            return found, sums
        assert text_score is not None and weights.targets is not None
        text_key = None if key is None else jax.random.fold_in(key, 1)
        ptx_loss = nll_loss(text_score(trained, base, batch.pretraining, text_key).logp, weights.targets)
        return found + ptx_coef * ptx_loss, sums | {"ptx_loss": ptx_loss}

    return Objective(value, prepare, mean_metrics)


def mean_metrics(sums: Metrics) -> Metrics:
    """Turn sums over the tokens of all micro-batches into means over tokens, those of values into means over states.

    Args:
      sums: of a loss, added up; the losses carry their weights already and stay, as do the counts.

    Returns:
      The same names, float32 [] each.
    """
    finished = ("loss", "policy_loss", "value_loss", "ptx_loss", "tokens", "states")
    count = {name: "states" if name == "value_clip_ratio" else "tokens" for name in sums}
    return {name: x if name in finished else x / jnp.maximum(sums[count[name]], 1.0) for name, x in sums.items()}


def minibatch_rows(key: Key, rows: int, minibatches: int) -> Array:
    """The rows of each minibatch of one epoch: every row once, in an order drawn from the key.

    Args:
      key: of this epoch, consumed.
      rows: of the batch.
      minibatches: how many; must divide the rows.

    Returns:
      int32 [minibatches, rows // minibatches].

    >>> print(jnp.sort(minibatch_rows(jax.random.key(0), 6, 3).reshape(-1)))
    [0 1 2 3 4 5]
    """
    if minibatches < 1 or rows % minibatches:
        raise UserError(f"minibatch_rows: {rows} rows in {minibatches} minibatches: choose a divisor of the rows")
    return jax.random.permutation(key, jnp.arange(rows, dtype=jnp.int32)).reshape(minibatches, -1)


def take_rows(batch: PPOBatch, rows: Array) -> PPOBatch:
    """A minibatch; pretraining rows and penalty, which are not of the rollout, stay.

    Args:
      batch: of B prompts.
      rows: int32 [n], as from `minibatch_rows`.

    Returns:
      A `PPOBatch` of n prompts.
    """
    rollout = batch.replace(pretraining=None, penalty=None)  # type: ignore[attr-defined]
    taken = jax.tree.map(lambda x: x[rows], rollout)
    return taken.replace(pretraining=batch.pretraining, penalty=batch.penalty)
