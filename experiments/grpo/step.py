"""One step of GRPO: sample, reward, compare, update.  A function of (state, step) alone: a resumed run repeats it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.grpo.setup import GRPOSetup
from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.rollouts.sample import Rollout, completion_metrics, reward, reward_metrics, rollout
from experiments.run import Run
from lqlm.algorithms.advantages import centered_advantages, group_advantages
from lqlm.algorithms.grpo import GRPOBatch
from lqlm.algorithms.step import TrainState
from lqlm.tasks.base import batch_at

GRPORun = Run[GRPOSetup]


def one_step(run: GRPORun, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One rollout and the updates on it; a function of (state, step) alone, so that a resumed run repeats it."""
    setup, settings = run.setup, run.setup.settings
    sample_key, update_key = jax.random.split(jax.random.fold_in(keys(settings.seed)[1], step))
    items = batch_at(setup.task.train, step, settings.run.prompts, settings.seed)
    drawn = rollout(run, state.adapters, items, sample_key)
    rewards, rows = reward(run, items, drawn.completions)
    run.writer.samples(step + 1, rows[: settings.run.samples])
    run.shown = rows[0]
    rewards_BG = rewards.total.reshape(len(items), -1)
    batch = make_batch(run, state, drawn, jnp.asarray(rewards_BG))
    state, metrics = updates(run, state, batch, update_key)
    return state, {
        **metrics,
        **reward_metrics(rewards, rewards_BG),
        **completion_metrics(drawn.completions, setup.model.tokenizer.eos_ids),
    }


def make_batch(run: GRPORun, state: TrainState, drawn: Rollout, rewards_BG: jax.Array) -> GRPOBatch:
    """Advantages, and the log-probabilities that stay fixed during the updates."""
    setup, settings = run.setup, run.setup.settings
    advantages = group_advantages if settings.run.scale == "group" else centered_advantages
    tokens, mask, completions = jnp.asarray(drawn.tokens_BP), jnp.asarray(drawn.mask_BP), drawn.completions
    batch = GRPOBatch(tokens, mask, completions.tokens_BGC, completions.mask_BGC, advantages(rewards_BG))
    batch, sampled = batched(setup.mesh, batch), np.asarray(completions.mask_BGC).sum().item()
    with run.timers.phase("logprob") as lap:
        base, score = setup.model.base, setup.functions.score
        ref = score(base, None, batch) if settings.grpo.beta else None
        old = score(base, state.adapters, batch) if settings.run.updates > 1 else None
        jax.block_until_ready((ref, old))
        lap.tokens += sampled * ((ref is not None) + (old is not None))
    return dataclasses.replace(batch, old_logp_BGC=old, ref_logp_BGC=ref)


def updates(run: GRPORun, state: TrainState, batch: GRPOBatch, key: jax.Array) -> tuple[TrainState, dict[str, Any]]:
    """``run.updates`` optimizer updates on one batch; the metrics are the last one's."""
    metrics: dict[str, Any] = {}
    with run.timers.phase("update") as lap:
        for number in range(run.setup.settings.run.updates):
            args = (run.setup.model.base, batch, keyed(run.setup.mesh, jax.random.fold_in(key, number)))
            state, metrics = jax.block_until_ready(run.setup.functions.update(state, *args))
            lap.tokens += int(metrics["tokens"])
    return state, {name: np.asarray(value) for name, value in metrics.items()}
