"""Log-probabilities of tokens, entropies, and estimators of the divergence from a reference.

A policy's log-probabilities are those of the temperature-divided logits over the whole vocabulary.  The chunked form
is the one to train with: the logits of all tokens, [N, V] in float32, are the largest array of a small model's step.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from lqlm.types import Array

Scored = TypeVar("Scored")


def token_logprobs(logits: Array, targets: Array) -> Array:
    """Log-probability of each target, ``z_y - log sum_v exp z_v``.

    Args:
      logits: [..., V], any float type; computed in float32.
      targets: int [...], each in [0, V).

    Returns:
      float32 [...].

    >>> print(token_logprobs(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([1])).round(4))
    [-0.2877]
    """
    chex.assert_shape(targets, logits.shape[:-1])
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    largest, _, weights = _weights(logits)
    return chosen - (largest[..., 0] + jnp.log(jnp.sum(weights, axis=-1)))


def entropy(logits: Array) -> Array:
    """Entropy of the categorical distribution, ``-sum_v p_v log p_v``, in nats.

    Args:
      logits: [..., V], any float type; minus infinity marks a token that cannot be drawn.

    Returns:
      float32 [...], between 0 and log V.

    >>> print(entropy(jnp.zeros(4)).round(4))
    1.3863
    """
    _, below, weights = _weights(logits.astype(jnp.float32))
    total = jnp.sum(weights, axis=-1)
    # With w_v = exp(z_v - max z) this is log sum w - sum w log w / sum w; 0 log 0 = 0, where the product would be NaN.
    return jnp.log(total) - jnp.sum(weights * jnp.where(weights > 0, below, 0.0), axis=-1) / total


def _weights(logits: Array) -> tuple[Array, Array, Array]:
    """The largest logit [..., 1], how far all are below it, and the exponentials of that: one pass for both sums."""
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    below = logits - largest
    return largest, below, jnp.exp(below)


def chunked_token_logprobs(
    hidden: Array,
    head: Callable[[Array], Array],
    targets: Array,
    *,
    temperature: float | Array = 1.0,
    chunk: int = 256,
    with_entropy: bool = False,
    entropy_gradient: bool = False,
) -> tuple[Array, Array | None]:
    """Log-probabilities of tokens from hidden states, holding the logits of one chunk of tokens at a time.

    Equals ``token_logprobs(head(hidden) / temperature, targets)``.  The backward pass recomputes each chunk's logits,
    so that neither pass holds more than [chunk, V].

    Args:
      hidden: [N, D] last hidden states, of the positions that are scored and no others.
      head: maps [n, D] to logits [n, V]; it may close over weights, and gradients flow to them.
      targets: int [N].
      temperature: divides the logits.
      chunk: tokens per chunk; N need not be a multiple of it.
      with_entropy: also compute the entropy.
      entropy_gradient: whether gradients flow through it, as an entropy bonus needs.

    Returns:
      (logp float32 [N], entropy float32 [N] or None).
    """

    def score(logits: Array, targets: Array) -> tuple[Array, Array | None]:
        logits = logits / temperature
        seen = logits if entropy_gradient else jax.lax.stop_gradient(logits)
        return token_logprobs(logits, targets), entropy(seen) if with_entropy else None

    return chunked_scores(hidden, head, targets, score=score, chunk=chunk)


def chunked_scores(
    hidden: Array,
    head: Callable[[Array], Array],
    targets: Array,
    *,
    score: Callable[[Array, Array], Scored],
    chunk: int = 256,
) -> Scored:
    """``score(head(hidden), targets)``, a tree of [N], with the logits of one chunk at a time in both passes.

    Arguments as `chunked_token_logprobs`; ``score`` takes float32 logits [n, V] and targets [n].
    """
    n, width = hidden.shape
    chex.assert_shape(targets, (n,))
    chunk = min(chunk, n)
    padding = -n % chunk

    @jax.checkpoint
    def part(rows: tuple[Array, Array]) -> Scored:
        return score(head(rows[0]).astype(jnp.float32), rows[1])

    # The padded rows score token 0 from a zero state: finite, and cut off below, so that their gradient is zero.
    hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, width)
    targets = jnp.pad(targets, (0, padding)).reshape(-1, chunk)
    scores = jax.lax.map(part, (hidden, targets))
    found: Scored = jax.tree.map(lambda x: x.reshape(-1)[:n], scores)
    return found


class TokenStatistics(NamedTuple):
    """The distribution that a given token could have been drawn from; none has a gradient."""

    entropy: Array  # float32, in nats
    log_collision: Array  # float32, log sum_v p_v^2: of the probability that two draws are the same token
    mean_logit: Array  # float32, over the vocabulary
    correct: Array  # bool, whether the token is the most probable one (the first of equals)


def token_statistics(logits: Array, targets: Array) -> TokenStatistics:
    """What TRL reports of a token beside its log-probability, and what WPO aligns it by.

    Args:
      logits: [..., V], any float type; computed in float32.
      targets: int [...], each in [0, V).

    Returns:
      `TokenStatistics` of [...].

    >>> found = token_statistics(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([1]))
    >>> print(jnp.exp(found.log_collision), found.correct)
    [0.625] [ True]
    """
    chex.assert_shape(targets, logits.shape[:-1])
    logits = jax.lax.stop_gradient(logits.astype(jnp.float32))
    _, _, weights = _weights(logits)
    total = jnp.sum(weights, axis=-1)
    collision = jnp.log(jnp.sum(jnp.square(weights), axis=-1)) - 2.0 * jnp.log(total)
    return TokenStatistics(entropy(logits), collision, jnp.mean(logits, -1), jnp.argmax(logits, -1) == targets)


class TokenScores(NamedTuple):
    """What a model says about given tokens; zero (false) where the mask is false."""

    logp: Array  # float32, log-probability of the token
    entropy: Array  # float32, of the distribution that it was drawn from, in nats; without a gradient
    correct: Array  # bool, whether the token is the most probable one (the first of equals)


def masked_token_scores(
    hidden: Array, head: Callable[[Array], Array], targets: Array, mask: Array, *, chunk: int = 256
) -> TokenScores:
    """Scores of some tokens from hidden states, holding the logits of one chunk at a time.

    The selected tokens are brought to the front, and chunks without any are passed over: the time is that of the
    selected tokens, whatever their share.  The backward pass recomputes each chunk's logits.

    Args:
      hidden: [N, D] last hidden states.
      head: maps [n, D] to logits [n, V]; it may close over weights, and gradients flow to them.
      targets: int [N].
      mask: bool [N], true at tokens that are scored.
      chunk: tokens per chunk; N need not be a multiple of it.

    Returns:
      `TokenScores` of [N].
    """
    n = hidden.shape[0]
    chex.assert_shape([targets, mask], (n,))
    chunk = min(chunk, n)
    padding = -n % chunk
    order = jnp.argsort(~mask, stable=True)  # the selected ones first
    place = jnp.argsort(order)

    def score(hidden: Array, targets: Array, mask: Array) -> TokenScores:
        logits = head(hidden).astype(jnp.float32)
        logp = jnp.where(mask, token_logprobs(logits, targets), 0.0)
        spread = jnp.where(mask, entropy(jax.lax.stop_gradient(logits)), 0.0)
        return TokenScores(logp, spread, (jnp.argmax(logits, axis=-1) == targets) & mask)

    def nothing(hidden: Array, targets: Array, mask: Array) -> TokenScores:
        zeros = jnp.zeros(mask.shape, jnp.float32)
        return TokenScores(zeros, zeros, mask)

    @jax.checkpoint  # of the choice as a whole: what one branch alone keeps, the head's weights, is kept for each chunk
    def some(part: tuple[Array, Array, Array]) -> TokenScores:
        return jax.lax.cond(part[2][0], score, nothing, *part)  # of a chunk, the first is selected if any is

    parts = (jnp.pad(x[order], ((0, padding), *[(0, 0)] * (x.ndim - 1))) for x in (hidden, targets, mask))
    scores = jax.lax.map(some, tuple(x.reshape(-1, chunk, *x.shape[1:]) for x in parts))
    return jax.tree.map(lambda x: x.reshape(-1)[:n][place], scores)


def k1(logp: Array, ref_logp: Array) -> Array:
    """Estimate of KL(policy || reference) by ``log p - log q``: unbiased under samples of p, of either sign.

    Schulman, "Approximating KL divergence" (2020).

    Args:
      logp: [...] log-probabilities of sampled tokens under the policy.
      ref_logp: [...] the same under the reference.

    Returns:
      [...].
    """
    return logp - ref_logp


def k2(logp: Array, ref_logp: Array) -> Array:
    """Estimate of KL(policy || reference) by ``(log p - log q)^2 / 2``: biased, of low variance.

    Schulman, "Approximating KL divergence" (2020).

    Args:
      logp: [...] log-probabilities of sampled tokens under the policy.
      ref_logp: [...] the same under the reference.

    Returns:
      [...], never negative.
    """
    return 0.5 * jnp.square(logp - ref_logp)


def k3(logp: Array, ref_logp: Array) -> Array:
    """Estimate of KL(policy || reference) by ``q/p - log(q/p) - 1``: unbiased and never negative.

    Schulman, "Approximating KL divergence" (2020); the KL term of GRPO (arXiv:2402.03300, equation 4).

    Args:
      logp: [...] log-probabilities of sampled tokens under the policy.
      ref_logp: [...] the same under the reference.

    Returns:
      [...], never negative.
    """
    delta = ref_logp - logp
    return jnp.expm1(delta) - delta  # expm1: near the reference the difference of exp and 1 would cancel
