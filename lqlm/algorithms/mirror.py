"""Magnetic mirror descent where every answer can be listed: the expectation over answers is exact, nothing is sampled.

Of a prompt with A legal answers the policy is a distribution over these, ``[B, A]``.  With the value ``q(s, a)`` of
each, the update of Sokota et al. (arXiv:2206.05825, equation 8) minimises

``l(s) = -sum_a pi(a|s) q(s, a) + alpha KL(pi || magnet) + 1 / eta KL(pi || pi_old)``.

Its first term is the all-actions policy gradient (Sutton et al. 2001, "Comparing policy-gradient algorithms"; Q-based
policy gradients of games, Srinivasan et al., arXiv:1810.09026).  In two-player zero-sum games the regularised last
iterate converges, where that of a plain policy gradient goes round in circles.
"""

import chex
import jax
import jax.numpy as jnp

from lqlm.masked import masked_sum, masked_var
from lqlm.types import Array

_NEVER = -1e30  # a finite score whose exponential is 0: minus infinity would send back NaN


def answer_logp(scores_BA: Array, mask_BA: Array) -> Array:
    """The policy over legal answers alone, ``log pi_a = s_a - log sum_b exp(s_b)``.

    Args:
      scores_BA: [..., A] of each answer.
      mask_BA: bool [..., A], true at legal answers.

    Returns:
      float32 [..., A]; 0 at what is not legal.

    >>> print(jnp.exp(answer_logp(jnp.log(jnp.array([[0.1, 0.3, 0.6]])), jnp.array([[True, True, False]]))).round(2))
    [[0.25 0.75 1.  ]]
    """
    chex.assert_equal_shape([scores_BA, mask_BA])
    mask = mask_BA.astype(bool)
    logp = jax.nn.log_softmax(jnp.where(mask, scores_BA.astype(jnp.float32), _NEVER), axis=-1)
    return jnp.where(mask, logp, 0.0)


def legal_logp(scores_BA: Array, mask_BA: Array) -> Array:
    """``log sum_a p(a)`` over the legal answers: how surely a model that is free to say anything says one of them.

    Args:
      scores_BA: [..., A], log-probabilities of whole answers.
      mask_BA: bool [..., A].

    Returns:
      float32 [...]; 0 where no answer is legal.
    """
    mask = mask_BA.astype(bool)
    total = jax.nn.logsumexp(jnp.where(mask, scores_BA.astype(jnp.float32), _NEVER), axis=-1)
    return jnp.where(jnp.any(mask, axis=-1), total, 0.0)


def expectation(logp_BA: Array, x_BA: Array, mask_BA: Array) -> Array:
    """``sum_a pi(a) x(a)`` over the legal answers, with a gradient through both.

    Args:
      logp_BA: [..., A] of `answer_logp`.
      x_BA: [..., A].
      mask_BA: bool [..., A].

    Returns:
      float32 [...].
    """
    mask = mask_BA.astype(bool)
    return masked_sum(jnp.exp(jnp.where(mask, logp_BA, 0.0)) * jnp.where(mask, x_BA, 0.0), mask, axis=-1)


def answer_kl(logp_BA: Array, other_BA: Array, mask_BA: Array) -> Array:
    """``KL(pi || other) = sum_a pi(a) (log pi(a) - log other(a))``, exact.

    Args:
      logp_BA: [..., A] of `answer_logp`.
      other_BA: [..., A], the same of the other policy.
      mask_BA: bool [..., A].

    Returns:
      float32 [...].
    """
    mask = mask_BA.astype(bool)
    return expectation(logp_BA, jnp.where(mask, logp_BA, 0.0) - jnp.where(mask, other_BA, 0.0), mask)


def mirror_losses(
    logp_BA: Array,
    values_BA: Array,
    old_logp_BA: Array,
    magnet_BA: Array,
    mask_BA: Array,
    *,
    alpha: Array | float,
    eta: float,
) -> Array:
    """``-sum_a pi q + alpha KL(pi || magnet) + 1 / eta KL(pi || pi_old)`` of each prompt (arXiv:2206.05825).

    Its minimum among all policies is ``pi ~ (pi_old magnet^(alpha eta) exp(eta q))^(1 / (1 + alpha eta))``.

    Args:
      logp_BA: [B, A] of `answer_logp`; the only argument with a gradient.
      values_BA: [B, A], q.
      old_logp_BA: [B, A], log pi_old.
      magnet_BA: [B, A], log of the magnet.
      mask_BA: bool [B, A], true at legal answers.
      alpha: the pull of the magnet, 0 or more.
      eta: the step size, more than 0; infinity leaves pi_old out.

    Returns:
      float32 [B]; 0 where no answer is legal.
    """
    chex.assert_equal_shape([logp_BA, values_BA, old_logp_BA, magnet_BA, mask_BA])
    values, old, magnet = map(jax.lax.stop_gradient, (values_BA, old_logp_BA, magnet_BA))
    near = answer_kl(logp_BA, old, mask_BA) / eta
    return alpha * answer_kl(logp_BA, magnet, mask_BA) + near - expectation(logp_BA, values, mask_BA)


def mirror_policy(
    values_BA: Array, old_logp_BA: Array, magnet_BA: Array, mask_BA: Array, *, alpha: Array | float, eta: float
) -> Array:
    """The minimum of `mirror_losses`, ``log pi* = (log pi_old + alpha eta log magnet + eta q) / (1 + alpha eta) - c``.

    Args:
      values_BA: [B, A], q.
      old_logp_BA: [B, A], log pi_old.
      magnet_BA: [B, A], log of the magnet.
      mask_BA: bool [B, A].
      alpha: the pull of the magnet.
      eta: the step size, finite.

    Returns:
      float32 [B, A]; 0 at what is not legal.
    """
    return answer_logp((old_logp_BA + alpha * eta * magnet_BA + eta * values_BA) / (1.0 + alpha * eta), mask_BA)


def replicator_losses(
    logp_BA: Array,
    values_BA: Array,
    old_logp_BA: Array,
    magnet_BA: Array,
    mask_BA: Array,
    *,
    alpha: Array | float,
    eta: float,
) -> Array:
    """Distance to `mirror_policy` in logits, ``1 / (2 eta) sum_a (d_a - mean d)^2`` with ``d = log pi - log pi*``.

    At pi_old with alpha 0 its gradient by the logits is ``-(q - mean q)``, without the factor pi of `mirror_losses`: a
    policy that is nearly sure of a wrong answer leaves it as fast as any other (neural replicator dynamics, Hennes et
    al., arXiv:1906.00190).

    Args:
      logp_BA: [B, A] of `answer_logp`; the only argument with a gradient.
      values_BA: [B, A], q.
      old_logp_BA: [B, A], log pi_old.
      magnet_BA: [B, A], log of the magnet.
      mask_BA: bool [B, A], true at legal answers.
      alpha: the pull of the magnet, 0 or more.
      eta: the step size, more than 0 and finite.

    Returns:
      float32 [B]; 0 where no answer is legal.
    """
    chex.assert_equal_shape([logp_BA, values_BA, old_logp_BA, magnet_BA, mask_BA])
    mask = mask_BA.astype(bool)
    target = mirror_policy(values_BA, old_logp_BA, magnet_BA, mask, alpha=alpha, eta=eta)
    distance = jnp.where(mask, logp_BA - jax.lax.stop_gradient(target), 0.0)
    return masked_var(distance, mask, axis=-1) * jnp.sum(mask.astype(jnp.float32), axis=-1) / (2.0 * eta)


def sampled_values(answers_BG: Array, advantages_BG: Array, old_logp_BA: Array) -> Array:
    """Values that turn the exact expectation into that over G sampled answers, for comparison.

    ``q^(a) = 1 / G sum_{g: a_g = a} A_g / pi_old(a)``: then ``sum_a pi q^`` is ``1 / G sum_g r_g A_g`` with the ratio
    ``r_g = pi(a_g) / pi_old(a_g)``, and its gradient at pi_old is that of REINFORCE, or with z-scored advantages of
    GRPO (arXiv:2402.03300).

    Args:
      answers_BG: int [B, G], which answer was drawn from pi_old.
      advantages_BG: [B, G] of the draws, such as `lqlm.algorithms.advantages.group_advantages` of their values.
      old_logp_BA: [B, A] of `answer_logp`.

    Returns:
      float32 [B, A]; 0 at answers that were not drawn.

    >>> print(sampled_values(jnp.array([[0, 0, 1, 0]]), jnp.ones((1, 4)), jnp.log(jnp.array([[0.5, 0.25, 0.25]]))))
    [[1.5 1.  0. ]]
    """
    drawn = jax.nn.one_hot(answers_BG, old_logp_BA.shape[-1], dtype=jnp.float32)
    sums = jnp.sum(drawn * advantages_BG.astype(jnp.float32)[..., None], axis=-2)
    return jnp.where(sums == 0, 0.0, sums / (answers_BG.shape[-1] * jnp.exp(old_logp_BA)))
