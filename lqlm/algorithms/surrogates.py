"""What a step of the policy gains per token: the surrogates of GRPO and of its relatives, to be maximised.

Each is a small dataclass that holds the constants and is what a config chooses; called with log-probabilities,
advantages and mask it evaluates the pure function of the same name in `lqlm.algorithms.surrogate_terms`.  The reduction
over tokens (`lqlm.algorithms.policy.token_weights`) is another choice: the papers' pairs are named with each.
"""

import dataclasses
from typing import ClassVar

from lqlm.algorithms import policy
from lqlm.algorithms.surrogate_terms import Bounds, Term, cispo, clipped, sapo, sequence_ratio, summed_ratio, vespo
from lqlm.errors import UserError
from lqlm.types import Array


def _check_delta(name: str, delta: float | None) -> None:
    if delta is not None and delta <= 1:
        raise UserError(f"{name}: delta {delta} would cut ratios that have not moved: take more than 1 + epsilon_high")


@dataclasses.dataclass(frozen=True)
class TokenClip:
    """`clipped` of each token's ratio: GRPO, DAPO, Dr. GRPO, BNPO."""

    kind: ClassVar[str] = "clip"

    delta: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _check_delta("TokenClip", self.delta)

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`, and the config's epsilons."""
        return clipped(policy.importance_ratio(logp, old_logp, mask), advantages, bounds, self.delta)


@dataclasses.dataclass(frozen=True)
class SequenceClip:
    """`clipped` of `sequence_ratio`: GSPO (its epsilons: 3e-4 and 4e-4), LUSPO."""

    kind: ClassVar[str] = "gspo"

    delta: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _check_delta("SequenceClip", self.delta)

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`, and the config's epsilons."""
        return clipped(sequence_ratio(logp, old_logp, mask), advantages, bounds, self.delta)


@dataclasses.dataclass(frozen=True)
class SummedClip:
    """`clipped` of `summed_ratio`: RLOO (arXiv:2402.14740) in TRL, with the reduction ``sequence``."""

    kind: ClassVar[str] = "rloo"

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`, and the config's epsilons."""
        return clipped(summed_ratio(logp, old_logp, mask), advantages, bounds)


@dataclasses.dataclass(frozen=True)
class Cispo:
    """`cispo`, with the reduction ``token``."""

    cap: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.cap <= 0:
            raise UserError(f"Cispo: cap {self.cap} is the greatest ratio itself, not an epsilon: take about 5")

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`; the epsilons are not looked at."""
        return cispo(logp, old_logp, advantages, mask, self.cap)


@dataclasses.dataclass(frozen=True)
class Sapo:
    """`sapo`, with the reduction ``sequence``."""

    temperature_positive: float = 1.0
    temperature_negative: float = 1.05

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if min(self.temperature_positive, self.temperature_negative) <= 0:
            raise UserError(
                f"Sapo: temperatures {self.temperature_positive}, {self.temperature_negative}: take above 0"
            )

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`; the epsilons are not looked at."""
        return sapo(logp, old_logp, advantages, mask, self.temperature_positive, self.temperature_negative)


@dataclasses.dataclass(frozen=True)
class Vespo:
    """`vespo`, with the reduction ``token``; each pair is (k, lambda)."""

    positive: tuple[float, float] = (2.0, 3.0)
    negative: tuple[float, float] = (3.0, 2.0)

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if min(*self.positive, *self.negative) <= 0:
            raise UserError(f"Vespo: (k, lambda) {self.positive}, {self.negative}: take numbers above 0")

    def __call__(self, logp: Array, old_logp: Array, advantages: Array, mask: Array, bounds: Bounds) -> Term:
        """Evaluate it; arguments as `cispo`; the epsilons are not looked at."""
        return vespo(logp, old_logp, advantages, mask, self.positive, self.negative)


Surrogate = TokenClip | SequenceClip | SummedClip | Cispo | Sapo | Vespo
