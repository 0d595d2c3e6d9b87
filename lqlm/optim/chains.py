"""The optimizer of a run: clip by the global norm, then AdamW with moments of 32 or 8 bits, paged or not."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from lqlm.errors import UserError
from lqlm.optim.adam8 import adamw8bit
from lqlm.optim.paged import paged
from lqlm.optim.precision import in_float32
from lqlm.trees import global_norm
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (arXiv:1711.05101) with a schedule."""

    learning_rate: float = 3e-4  # the greatest of the schedule
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    total_steps: int = 0  # updates of the run, for the schedules that fall; 0: experiments fill it in
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # of the gradient of all adapters together; None does not clip
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"  # moments in float32, or in 8 bits (arXiv:2110.02861)
    paging: Literal["none", "whole", "leaf", "slice"] = "leaf"  # moments in host memory; what of them comes in at once
    offload: float = 1.0  # share of the moments' bytes that is kept in host memory, where they are paged

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if self.schedule not in ("constant", "linear", "cosine"):
            raise UserError(f"OptimConfig: unknown schedule {self.schedule!r}: use 'constant', 'linear' or 'cosine'")
        if self.optimizer not in ("adamw", "adamw8bit"):
            raise UserError(f"OptimConfig: unknown optimizer {self.optimizer!r}: use 'adamw' or 'adamw8bit'")
        if self.paging not in ("none", "whole", "leaf", "slice"):
            raise UserError(f"OptimConfig: unknown paging {self.paging!r}: use 'none', 'whole', 'leaf' or 'slice'")
        if not 0 <= self.offload <= 1:
            raise UserError(f"OptimConfig: offload {self.offload}: take a share from 0 to 1")
        if self.schedule != "constant" and self.total_steps and self.total_steps <= self.warmup_steps:
            raise UserError(
                f"OptimConfig: schedule {self.schedule!r} with total_steps {self.total_steps} and "
                f"warmup_steps {self.warmup_steps}: set total_steps above warmup_steps"
            )
        if self.learning_rate < 0 or self.warmup_steps < 0:
            raise UserError(
                f"OptimConfig: learning_rate {self.learning_rate}, warmup_steps {self.warmup_steps}: take 0 or more"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"OptimConfig: clip_norm {self.clip_norm}: take a number above 0, or None not to clip")


def make_schedule(cfg: OptimConfig) -> optax.Schedule:
    """Learning rate of update t (0, 1, ...): a linear rise over the warmup, then the schedule down to 0.

    The first update already moves, by ``learning_rate / warmup_steps``; the last has not yet reached 0.

    Args:
      cfg: its learning_rate, schedule, warmup_steps and total_steps.

    Returns:
      A function from the count of updates to a learning rate, float32 [].

    >>> rate = make_schedule(OptimConfig(learning_rate=1.0, schedule="linear", warmup_steps=2, total_steps=6))
    >>> [float(rate(jnp.int32(t))) for t in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if cfg.schedule != "constant" and not cfg.total_steps:
        raise UserError(f"make_schedule: schedule {cfg.schedule!r} with total_steps 0: set it to the number of updates")

    def rate(count: Array) -> Array:
        t = jnp.asarray(count, jnp.float32)
        rise = jnp.minimum(1.0, (t + 1) / max(cfg.warmup_steps, 1))
        if cfg.schedule == "constant":
            return cfg.learning_rate * rise
        done = jnp.clip((t - cfg.warmup_steps) / (cfg.total_steps - cfg.warmup_steps), 0.0, 1.0)
        fall = 1.0 - done if cfg.schedule == "linear" else 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return cfg.learning_rate * rise * fall

    return rate


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale gradients so that their common norm is at most ``max_norm``: ``g * min(1, max_norm / |g|)``.

    optax's function of this name, with the norm summed in float32 whatever the gradients' dtype, and as one product.
    Its division and choice per element make XLA keep a second copy of all gradients.

    Args:
      max_norm: greater than 0.

    Returns:
      An optax transformation without state; gradients of a smaller norm keep their bits.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, max_norm / global_norm(updates))
        return jax.tree.map(lambda g: (g.astype(jnp.float32) * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_adam(cfg: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """AdamW with the schedule, in float32 whatever the parameters' dtype, its moments on the device.

    Args:
      cfg: the constants of the optimizer.

    Returns:
      An optax transformation.
    """
    build = adamw8bit if cfg.optimizer == "adamw8bit" else optax.adamw
    return in_float32(build(make_schedule(cfg), b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay))


def make_optimizer(cfg: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Build ``chain(clip_by_global_norm, paged(adamw))``.

    Args:
      cfg: the constants of the optimizer.

    Returns:
      An optax transformation.
    """
    adam = make_adam(cfg)
    last = adam if cfg.paging == "none" else paged(adam, mode=cfg.paging, offload=cfg.offload)
    clip = optax.identity() if cfg.clip_norm is None else clip_by_global_norm(cfg.clip_norm)
    return optax.with_extra_args_support(optax.chain(clip, last))
