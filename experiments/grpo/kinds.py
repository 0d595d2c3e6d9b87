"""What every kind of advantage of a run shares, and what it is computed from."""

import dataclasses
from typing import ClassVar

import flax.struct

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
