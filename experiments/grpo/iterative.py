"""A reference that is no bare base: the adapter that training goes on from, or (iterative GRPO) the policy itself.

The reference is a copy of the adapters inside of the state, so that a checkpoint holds it; base and adapters' config
are shared with the policy.  It is the initial policy, and is renewed at the beginning of a step, by the number of the
step alone.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.algorithms.step import TrainState
from lqlm.types import PyTree


@flax.struct.dataclass
class IterativeState(TrainState):
    """A training state with the adapters of its reference."""

    reference: PyTree

    @property
    def plain(self) -> TrainState:
        """What an update takes."""
        return TrainState(*(getattr(self, field.name) for field in dataclasses.fields(TrainState)))


def begin(state: TrainState) -> IterativeState:
    """The state before the first step, its reference the initial policy."""
    return with_reference(state, copied(state.adapters))


def with_reference(state: TrainState, reference: PyTree) -> IterativeState:
    """A training state beside a reference."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(TrainState)}
    return IterativeState(**fields, reference=reference)


def renewed(state: IterativeState, step: int, every: int) -> IterativeState:
    """The state with which a step begins: every so many steps (0: never) its reference is the policy."""
    return with_reference(state, copied(state.adapters)) if every and step and step % every == 0 else state


def copied(tree: PyTree) -> PyTree:
    """Buffers of its own, because an update takes over those of the policy."""
    return jax.tree.map(jnp.copy, tree)
