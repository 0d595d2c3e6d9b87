"""The advantages that a run can choose: each kind holds its constants and evaluates one function of lqlm."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from experiments.grpo.kinds import Context, Kind
from experiments.grpo.remedies import Anchored, Avspo, Mapo, Mixed, Ngrpo, Zvp
from lqlm.algorithms import advantages
from lqlm.errors import UserError
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class GroupAdvantage(Kind):
    """Z-scores in the group: GRPO."""

    kind: ClassVar[str] = "group"
    grows: ClassVar[bool] = True

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.group_advantages(context.rewards_BG)


@dataclasses.dataclass(frozen=True)
class CentredAdvantage(Kind):
    """Centred in the group, not scaled: Dr. GRPO."""

    kind: ClassVar[str] = "none"
    grows: ClassVar[bool] = True

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.centered_advantages(context.rewards_BG)


@dataclasses.dataclass(frozen=True)
class BatchAdvantage(Kind):
    """Centred in the group, scaled by the whole batch."""

    kind: ClassVar[str] = "batch"

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.batch_advantages(context.rewards_BG)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Kind):
    """Less the mean of the others: RLOO."""

    kind: ClassVar[str] = "rloo"

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.leave_one_out_advantages(context.rewards_BG)


@dataclasses.dataclass(frozen=True)
class Decoupled(Kind):
    """Each component of the reward normalised by itself: GDPO; a divergence in the reward does not reach it."""

    kind: ClassVar[str] = "gdpo"

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.decoupled_advantages(context.components_KBG, context.weights_K)


@dataclasses.dataclass(frozen=True)
class Bnpo(Kind):
    """Centred in the group, over a Beta density fitted to the groups' mean rewards: BNPO.

    Attributes:
        low: the least reward there is.
        high: the largest one.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"advantage: low {self.low}, high {self.high}; give two finite rewards, the least first")

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return advantages.beta_normalised_advantages(context.rewards_BG, low=self.low, high=self.high)


@dataclasses.dataclass(frozen=True)
class Process(Kind):
    """Process supervision: each step of a completion is rewarded by itself.

    Attributes:
        function: the path of a step reward, a function that asks for ``steps`` (see `lqlm.rewards.steps`).
        params: arguments bound by name.
        marker: text that ends a step.
        outcome: weight of the reward of the whole completion (of the section ``rewards``), added to its last step; 0:
            the steps alone teach, as in DeepSeekMath, and the section is logged only.
    """

    function: str = "lqlm.rewards.equations.equation_steps"
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    marker: str = "\n"
    outcome: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.marker or not math.isfinite(self.outcome):
            raise UserError(
                f"advantage.marker is {self.marker!r}, advantage.outcome {self.outcome}; give the text that ends a "
                "step, and a finite number"
            )

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G, C]."""
        scores, ends, mask = context.step_scores_BGC, context.step_ends_BGC, context.mask_BGC
        assert scores is not None and ends is not None
        last = mask & ~jnp.pad(mask[..., 1:], ((0, 0), (0, 0), (0, 1)))
        whole = jnp.where(last, context.rewards_BG[..., None], 0.0)
        return advantages.process_advantages(scores + self.outcome * whole, ends, mask)


Advantage = (
    GroupAdvantage
    | CentredAdvantage
    | BatchAdvantage
    | LeaveOneOut
    | Decoupled
    | Bnpo
    | Mixed
    | Anchored
    | Ngrpo
    | Avspo
    | Mapo
    | Zvp
    | Process
)
