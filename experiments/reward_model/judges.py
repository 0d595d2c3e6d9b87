"""What the scores of held-out pairs, or of held-out single texts, are worth."""

from collections.abc import Callable

import jax.numpy as jnp

from lqlm.algorithms.reward_model import RewardModelConfig, calibration_error, pair_losses, reward_metrics
from lqlm.algorithms.scored import SINGLE, single_metrics
from lqlm.algorithms.step import Metrics
from lqlm.types import Array

Judge = Callable[[Array, Array], Metrics]


def pair_judge(cfg: RewardModelConfig, bins: int) -> Judge:
    """``(scores [N, 2], margins [N]) -> metrics`` of N held-out pairs."""

    def judge(scores: Array, margins: Array) -> Metrics:
        chosen, rejected, real = scores[:, 0], scores[:, 1], jnp.ones(len(scores), bool)
        found = reward_metrics(chosen, rejected, real)
        found["loss"] = jnp.mean(pair_losses(chosen, rejected, margins, cfg))
        found["calibration_error"] = calibration_error(chosen - rejected, real, bins=bins)
        return found

    return judge


def single_judge(cfg: RewardModelConfig, bins: int) -> Judge:
    """``(scores [N, 1], targets [N]) -> metrics`` of N held-out texts.

    Of labels the accuracy and the calibration error of ``sigma(score)``, of other targets the mean distance and
    Pearson's correlation (0 where either side is constant).
    """

    def judge(scores: Array, targets: Array) -> Metrics:
        scores = scores[:, 0]
        found = {name: jnp.mean(values) for name, values in single_metrics(scores, targets, cfg).items()}
        found |= {"mean_reward": jnp.mean(scores), "loss": jnp.mean(SINGLE[cfg.loss](scores, targets))}
        if cfg.loss == "regression":
            return {**found, "correlation": correlation(scores, targets)}
        real = jnp.ones(len(scores), bool)
        return {**found, "calibration_error": calibration_error(scores, real, labels=targets, bins=bins)}

    return judge


def correlation(one: Array, other: Array) -> Array:
    """Pearson's, ``cov(x, y) / (std(x) std(y))``; 0 where either is constant.

    >>> print(correlation(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.0])).round(4))
    1.0
    """
    x, y = one - jnp.mean(one), other - jnp.mean(other)
    scale = jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
    return jnp.where(scale > 0, jnp.sum(x * y) / jnp.where(scale > 0, scale, 1.0), 0.0)
