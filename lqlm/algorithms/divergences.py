"""What a log-ratio counts in DPO under divergences other than the reverse KL: ``f'(t)`` of ``t = pi / pi_ref``.

Wang et al., "Beyond Reverse KL" (arXiv:2309.16240); TRL's ``f_divergence_type``.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from lqlm.types import Array

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
_LARGEST = 80.0  # exp of it is still a float32


def forward_kl_score(log_ratio: Array) -> Array:
    """``1 - 1/t``, of the forward KL, whose ``f(t)`` is ``-log t + t - 1``.

    Args:
      log_ratio: [...], log t.

    Returns:
      [...].
    """
    return -jnp.expm1(-log_ratio)


def js_score(log_ratio: Array) -> Array:
    """``log(2t / (t + 1))``, of the Jensen-Shannon divergence: bounded above by log 2.

    Args:
      log_ratio: [...], log t.

    Returns:
      [...].
    """
    return jnp.log(jnp.asarray(2.0, log_ratio.dtype)) + jax.nn.log_sigmoid(log_ratio)


def alpha_score(log_ratio: Array, alpha: float) -> Array:
    """``(t^(alpha - 1) - 1) / (alpha - 1)``; the logarithm in the limit of alpha 1.

    Args:
      log_ratio: [...], log t.
      alpha: 0 gives `forward_kl_score`, 1 the log-ratio itself.

    Returns:
      [...]; beyond ``(alpha - 1) log t = 80`` constant, where t would have no float.
    """
    if abs(alpha - 1.0) < 1e-6:
        return log_ratio
    return jnp.expm1(jnp.minimum((alpha - 1.0) * log_ratio, _LARGEST)) / (alpha - 1.0)


def divergence_score(log_ratio: Array, divergence: Divergence, alpha: float) -> Array:
    """What takes the place of the log-ratio; the reverse KL leaves it as it is.

    Args:
      log_ratio: [...].
      divergence: which.
      alpha: of the alpha-divergence.

    Returns:
      [...].
    """
    if divergence == "forward_kl":
        return forward_kl_score(log_ratio)
    if divergence == "js_divergence":
        return js_score(log_ratio)
    return alpha_score(log_ratio, alpha) if divergence == "alpha_divergence" else log_ratio
