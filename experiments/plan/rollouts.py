"""What the rollouts of a step hold on the device, from shapes: that the update fits is of no use if they do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from experiments.plan.memory import Usage
from experiments.plan.shapes import abstract_base
from experiments.plan.steps import Job
from lqlm.adapters.configs import linears_of
from lqlm.models.kv_cache import CacheFormat, bytes_per_token
from lqlm.trees import tree_bytes

STEPS = ("grpo", "ppo")
"""Those that sample."""


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Bytes on the device while a step's completions are sampled.

    Attributes:
        base: as it is held for the update.
        trained: adapters and those of their moments that stay on the device.
        copy: the dense linear maps with the adapters merged in; 0 without ``run.merge``.
        cache: keys and values of the prompts under way, once, and of their completions at full length.
        logits: of one token of each of these completions, float32, and a sorted copy of them.
    """

    base: int
    trained: int
    copy: int
    cache: int
    logits: int

    @property
    def device(self) -> int:
        """All of it; activations of a single token and of the prefill are not counted."""
        return sum(dataclasses.astuple(self))


def rollouts_of(job: Job, usage: Usage, merge: bool, slots: int = 0, cache: CacheFormat = "model") -> Rollouts:
    """Of a step that samples.

    Args:
        job: the step.
        usage: of its update.
        merge: whether it samples from a merged copy.
        slots: prompts under way at once; 0: all.
        cache: how keys and values are stored.
    """
    layers = jax.eval_shape(functools.partial(abstract_base, job.cfg, None, job.dtype))["layers"]
    completion = job.completion or job.tokens - job.tokens // 2
    prompts = min(slots or job.batch, job.batch)
    tokens = prompts * (job.tokens - completion + job.group * completion)
    return Rollouts(
        base=usage.base,
        trained=usage.adapters + usage.moments - usage.memory.host_arguments,
        copy=sum(tree_bytes(layers[name]) for name in linears_of(layers)) if merge else 0,
        cache=tokens * bytes_per_token(job.cfg, cache, jnp.dtype(job.dtype)),
        logits=2 * 4 * prompts * job.group * job.cfg.vocab_size,
    )
