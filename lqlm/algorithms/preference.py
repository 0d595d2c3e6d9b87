"""Losses of a pair, one equation each, from the log-ratios of its two completions.

Throughout, ``c`` and ``r`` are the log-ratios ``log pi(y|x) - log pi_ref(y|x)`` of the chosen and of the rejected
completion, summed over their tokens, ``[B]``, and ``beta`` is the strength of the tie to the reference.  Every loss is
``[B]``, one number a pair, to be averaged.
"""

import jax
import jax.numpy as jnp

from lqlm.types import Array

_log_sigmoid, _sigmoid = jax.nn.log_sigmoid, jax.nn.sigmoid


def sigmoid_loss(c: Array, r: Array, *, beta: float) -> Array:
    """DPO, ``-log sigma(beta (c - r))`` (Rafailov et al., arXiv:2305.18290, equation 7).

    >>> [round(x, 4) for x in sigmoid_loss(jnp.array([0.0, 1.0]), jnp.array([0.0, -1.0]), beta=0.5).tolist()]
    [0.6931, 0.3133]
    """
    return -_log_sigmoid(beta * (c - r))


def smoothed_loss(c: Array, r: Array, *, beta: float, label_smoothing: float) -> Array:
    """Conservative DPO, ``-(1 - e) log sigma(beta (c - r)) - e log sigma(-beta (c - r))``, e the share of wrong labels.

    Mitchell, "A note on DPO with noisy preferences" (2023).

    >>> round(float(smoothed_loss(jnp.array(4.0), jnp.array(0.0), beta=0.5, label_smoothing=0.25)), 4)
    0.6269
    """
    return (1 - label_smoothing) * sigmoid_loss(c, r, beta=beta) + label_smoothing * sigmoid_loss(r, c, beta=beta)


def robust_loss(c: Array, r: Array, *, beta: float, label_smoothing: float) -> Array:
    """Robust DPO, ``[-(1 - e) log sigma(beta (c - r)) + e log sigma(-beta (c - r))] / (1 - 2 e)``: noise taken out.

    Chowdhury et al. (arXiv:2403.00409): in the mean over flipped labels it is DPO of the true ones.
    """
    right, wrong = sigmoid_loss(c, r, beta=beta), sigmoid_loss(r, c, beta=beta)
    return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def hinge_loss(c: Array, r: Array, *, beta: float) -> Array:
    """``max(0, 1 - beta (c - r))`` (SLiC, arXiv:2305.10425; RSO, arXiv:2309.06657)."""
    return jax.nn.relu(1 - beta * (c - r))


def per_token(c: Array, length: Array) -> Array:
    """A summed log-ratio divided by the number of its tokens, of which an empty completion counts one."""
    return c / jnp.maximum(length.astype(c.dtype), 1.0)


def ipo_loss(c: Array, r: Array, c_length: Array, r_length: Array, *, beta: float) -> Array:
    """IPO, ``(c/n_c - r/n_r - 1/(2 beta))^2``, with log-ratios a token.

    Azar et al. (arXiv:2310.12036), equation 17; the division by the lengths n is what its authors used.
    """
    return jnp.square(per_token(c, c_length) - per_token(r, r_length) - 1 / (2 * beta))


def sigmoid_norm_loss(c: Array, r: Array, c_length: Array, r_length: Array, *, beta: float) -> Array:
    """Length-normalised DPO, ``-log sigma(beta (c/n_c - r/n_r))`` (Tulu 3, arXiv:2411.15124, section 5)."""
    return sigmoid_loss(per_token(c, c_length), per_token(r, r_length), beta=beta)


def exo_loss(c: Array, r: Array, *, beta: float, label_smoothing: float) -> Array:
    """EXO on pairs, ``q log(q/(1 - e)) + (1 - q) log((1 - q)/e)`` with ``q = sigma(beta (c - r))``.

    Ji et al. (arXiv:2402.00856), equation 16; e must be above 0.
    """
    margin, e = beta * (c - r), jnp.asarray(label_smoothing, c.dtype)
    right = _sigmoid(margin) * (_log_sigmoid(margin) - jnp.log1p(-e))
    return right + _sigmoid(-margin) * (_log_sigmoid(-margin) - jnp.log(e))


def nca_loss(c: Array, r: Array, *, beta: float) -> Array:
    """NCA on pairs, ``-log sigma(beta c) - (log sigma(-beta c) + log sigma(-beta r)) / 2`` (arXiv:2402.05369)."""
    return -_log_sigmoid(beta * c) - 0.5 * _log_sigmoid(-beta * c) - 0.5 * _log_sigmoid(-beta * r)


def bco_loss(c: Array, r: Array, *, beta: float) -> Array:
    """BCO on pairs, ``-log sigma(beta c) - log sigma(-beta r)``, without its running mean (arXiv:2404.04656).

    TRL's ``bco_pair`` has none either; the shift of the paper is a constant that a caller may take off c and r.
    """
    return -_log_sigmoid(beta * c) - _log_sigmoid(-beta * r)


def sppo_loss(c: Array, r: Array, *, beta: float) -> Array:
    """SPPO with hard labels, ``(c - 1/(2 beta))^2 + (r + 1/(2 beta))^2`` (arXiv:2405.00675, equation 4.7)."""
    return jnp.square(c - 0.5 / beta) + jnp.square(r + 0.5 / beta)


def apo_zero_loss(c: Array, r: Array, *, beta: float) -> Array:
    """APO-zero, ``1 - sigma(beta c) + sigma(beta r)`` (arXiv:2408.06266, equation 7): chosen up, rejected down."""
    return 1 - _sigmoid(beta * c) + _sigmoid(beta * r)


def apo_down_loss(c: Array, r: Array, *, beta: float) -> Array:
    """APO-down, ``sigma(beta c) + 1 - sigma(beta (c - r))`` (arXiv:2408.06266, equation 8): both down, one more."""
    return _sigmoid(beta * c) + 1 - _sigmoid(beta * (c - r))


def discopop_loss(c: Array, r: Array, *, beta: float, tau: float = 0.05) -> Array:
    """DiscoPOP, ``-(1 - s) log sigma(x) + s exp(-x)`` with ``x = beta (c - r)`` and ``s = sigma(x / tau)``.

    Lu et al. (arXiv:2406.08414), equation 5.  Found by a search, and not convex: at the reference (x = 0), where
    training begins, its slope is ``(1 - log 2) / (4 tau) - 3/4``: for tau 0.05 positive, which pulls the wrong way.
    """
    x = beta * (c - r)
    share = _sigmoid(x / tau)
    return -_log_sigmoid(x) * (1 - share) + jnp.exp(-x) * share


def aot_loss(policy_margin: Array, reference_margin: Array, *, beta: float, label_smoothing: float = 0.0) -> Array:
    """Alignment via optimal transport, paired: `smoothed_loss` of the i-th smallest margins of policy and reference.

    Melnyk et al. (arXiv:2406.05882).  It compares distributions: give it the full batch.

    Args:
      policy_margin: [B] ``log pi(chosen) - log pi(rejected)``.
      reference_margin: [B] the same of the reference.
      beta: strength of the tie to the reference.
      label_smoothing: share of wrong labels.
    """
    ordered = jnp.sort(policy_margin), jnp.sort(reference_margin)
    return smoothed_loss(*ordered, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired_loss(c: Array, r: Array, *, beta: float, label_smoothing: float = 0.0) -> Array:
    """Alignment via optimal transport, unpaired: `smoothed_loss` of the i-th smallest log-ratios of both sides.

    Melnyk et al. (arXiv:2406.05882).  It compares distributions: give it the full batch.
    """
    return smoothed_loss(jnp.sort(c), jnp.sort(r), beta=beta, label_smoothing=label_smoothing)
