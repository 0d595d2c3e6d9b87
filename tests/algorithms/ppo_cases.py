"""Batches of the shape that a rollout has, from arrays [N, C]."""

import jax.numpy as jnp
import numpy as np

from lqlm.algorithms.actor_critic import Experience, Outputs, PPOBatch
from lqlm.algorithms.kl_control import states_mask


def batch_of(mask, old_logp, old_values, advantages, returns, *, states=None, **more):
    """N rows as N prompts with one completion each; a loss looks at nothing but the experience."""
    arrays = [jnp.asarray(x, jnp.float32)[:, None] for x in (old_logp, old_values, advantages, returns)]
    mask = jnp.asarray(mask)[:, None]
    found = Experience(mask, states_mask(mask) if states is None else jnp.asarray(states)[:, None], *arrays)
    rows = len(mask)
    prompt = jnp.zeros((rows, 1), jnp.int32)
    return PPOBatch(prompt, prompt == 0, jnp.zeros(mask.shape, jnp.int32), found, **more)


def outputs_of(logp, values, entropy=None):
    logp, values = (jnp.asarray(x, jnp.float32)[:, None] for x in (logp, values))
    return Outputs(
        logp, jnp.zeros_like(logp) if entropy is None else jnp.asarray(entropy, jnp.float32)[:, None], values
    )


def random_case(seed=0, rows=6, length=5):
    """Arrays of a ragged rollout: mask, and six of numbers."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.integers(1, length + 1, rows), length)
    lengths[0] = length
    names = ("logp", "old_logp", "values", "old_values", "advantages", "returns", "entropy")
    arrays = {name: rng.normal(0, 1, (rows, length)).astype(np.float32) for name in names}
    arrays["old_logp"] = arrays["logp"] + 0.3 * arrays["old_logp"]
    return {"mask": np.arange(length)[None] < lengths[:, None], **arrays}


def split_case(case):
    """The outputs and the batch of a random case."""
    fixed = {name: case[name] for name in ("mask", "old_logp", "old_values", "advantages", "returns")}
    return outputs_of(case["logp"], case["values"], case["entropy"]), batch_of(**fixed)
