"""The advantages that a run can choose: each kind holds its constants and evaluates one function of lqlm."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax.numpy as jnp

from lqlm.algorithms import advantages, remedies
from lqlm.errors import UserError
from lqlm.types import Array


@flax.struct.dataclass
class Context:
    """What advantages are computed from."""

    rewards_BG: Array  # float32, the weighted sum, less the divergence where it acts in the reward
    components_KBG: Array  # float32, before weighting
    weights_K: Array  # float32
    mask_BGC: Array  # bool, true at real tokens
    entropy_BGC: Array | None  # float32, for kinds that need it
    anchor: Array  # float32 [], the running one
    step_scores_BGC: Array | None = None  # float32, at the last tokens of steps, for the kind 'process'
    step_ends_BGC: Array | None = None  # bool, those tokens


@dataclasses.dataclass(frozen=True)
class Kind:
    """What all kinds share.

    Attributes:
        needs_entropy: whether it looks at the entropy of each token.
        grows: whether it is also defined for groups of unequal size.
    """

    needs_entropy: ClassVar[bool] = False
    grows: ClassVar[bool] = False

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G], or [B, G, C] for each token."""
        raise NotImplementedError


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
class Mixed(Kind):
    """Z-score and signed absolute reward.

    Attributes:
        weight: lambda, of the z-score.
        anchor: reward that is worth 0; where it runs, before the first step.
        scale: reward above the anchor that is worth 1.
        decay: 1 keeps the anchor; less lets it follow the mean reward.
    """

    weight: float = 0.5
    anchor: float = 0.5
    scale: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not (0 <= self.weight <= 1 and 0 <= self.decay <= 1 and self.scale > 0):
            raise UserError(
                f"advantage: weight {self.weight} and decay {self.decay} lie from 0 to 1, scale {self.scale} above 0"
            )

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return remedies.mixed_advantages(context.rewards_BG, context.anchor, weight=self.weight, scale=self.scale)

    def next_anchor(self, anchor: float, rewards_BG: Array) -> float:
        """The anchor of the next step."""
        return anchor if self.decay == 1 else float(remedies.running_anchor(anchor, rewards_BG, decay=self.decay))


@dataclasses.dataclass(frozen=True)
class Anchored(Kind):
    """Z-scores in the group and reference anchors, such as one good solution's reward."""

    anchors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.anchors:
            raise UserError("advantage.anchors is empty; give the reward of each anchor, or take kind 'group'")

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        rewards = context.rewards_BG
        anchors = jnp.broadcast_to(jnp.array(self.anchors, jnp.float32), (*rewards.shape[:-1], len(self.anchors)))
        return remedies.anchored_advantages(rewards, anchors)


@dataclasses.dataclass(frozen=True)
class Ngrpo(Kind):
    """Z-scores in the group and one virtual sample of the best reward."""

    best: float = 1.0

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return remedies.ngrpo_advantages(context.rewards_BG, best=self.best)


@dataclasses.dataclass(frozen=True)
class Avspo(Kind):
    """Virtual samples for groups of equal rewards; their number, where it is 0, follows the share of such groups."""

    best: float = 1.0
    worst: float = 0.0
    virtual: float = 0.0

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        rewards = context.rewards_BG
        rate = advantages.zero_variance_share(rewards)
        virtual = self.virtual or remedies.virtual_samples(rate, rewards.shape[-1])
        return remedies.avspo_advantages(rewards, best=self.best, worst=self.worst, virtual=virtual)


@dataclasses.dataclass(frozen=True)
class Mapo(Kind):
    """Between z-score and percent deviation, by how certain the group is."""

    right: float = 1.0

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G]."""
        return remedies.mapo_advantages(context.rewards_BG, right=self.right)


@dataclasses.dataclass(frozen=True)
class Zvp(Kind):
    """Groups of equal rewards get a signed advantage, scaled by the entropy of each token."""

    needs_entropy: ClassVar[bool] = True

    alpha: float = 0.1
    right: float = 0.5

    def __call__(self, context: Context) -> Array:
        """Advantages [B, G, C]."""
        assert context.entropy_BGC is not None
        arrays = context.rewards_BG, context.entropy_BGC, context.mask_BGC
        return remedies.zvp_advantages(*arrays, alpha=self.alpha, right=self.right)


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
    | Mixed
    | Anchored
    | Ngrpo
    | Avspo
    | Mapo
    | Zvp
    | Process
)
