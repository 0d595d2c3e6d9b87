"""Advantages for groups whose samples are all poor; each kind holds its constants and evaluates one function."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from experiments.grpo.kinds import Context, Kind
from lqlm.algorithms import advantages, remedies
from lqlm.errors import UserError
from lqlm.types import Array


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
