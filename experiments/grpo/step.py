"""One step of GRPO: sample, reward, compare, update.  A function of (state, step) alone: a resumed run repeats it."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decoding import texts_of
from experiments.grpo.setup import GRPOSetup
from experiments.hosts import shared_rewards
from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.run import Run
from lqlm.algorithms.advantages import centered_advantages, group_advantages, zero_variance_share
from lqlm.algorithms.grpo import GRPOBatch
from lqlm.algorithms.step import TrainState
from lqlm.generation.decode import Completions
from lqlm.rewards.combine import Rewards, Sample, score_all
from lqlm.tasks.base import Item, batch_at

GRPORun = Run[GRPOSetup]
_log = logging.getLogger("lqlm")


def one_step(run: GRPORun, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One rollout and the updates on it; a function of (state, step) alone, so that a resumed run repeats it."""
    setup, settings = run.setup, run.setup.settings
    sample_key, update_key = jax.random.split(jax.random.fold_in(keys(settings.seed)[1], step))
    items = batch_at(setup.task.train, step, settings.run.prompts, settings.seed)
    prompts, completions = rollout(run, state, items, sample_key)
    with run.timers.phase("reward"):
        rewards, rows = reward(run, items, completions)
    run.writer.samples(step + 1, rows[: settings.run.samples])
    run.shown = rows[0]
    rewards_BG = jnp.asarray(rewards.total.reshape(len(items), -1))
    batch = make_batch(run, state, prompts, completions, rewards_BG)
    state, metrics = updates(run, state, batch, update_key)
    return state, {
        **metrics,
        **reward_metrics(rewards, rewards_BG),
        **completion_metrics(completions),
    }


def rollout(
    run: GRPORun, state: TrainState, items: Sequence[Item], key: jax.Array
) -> tuple[tuple[np.ndarray, np.ndarray], Completions]:
    """Sample the group of every prompt."""
    setup = run.setup
    prompts = setup.prompts.batch(items)
    with run.timers.phase("rollout") as lap:
        base, adapters = setup.functions.policy(setup.model.base, state.adapters)
        completions = jax.block_until_ready(setup.functions.sample(base, adapters, *prompts, key))
        lap.tokens += np.asarray(completions.mask_BGC).sum().item()
    return prompts, completions


def reward(run: GRPORun, items: Sequence[Item], completions: Completions) -> tuple[Rewards, list[dict[str, Any]]]:
    """Rewards of all completions, and what a person may want to read of them."""
    setup = run.setup
    mask, tokens = np.asarray(completions.mask_BGC), np.asarray(completions.tokens_BGC)
    ended = (np.isin(tokens, setup.model.tokenizer.eos_ids) & mask).any(-1)
    texts = texts_of(setup.model.tokenizer, completions)
    samples = [
        Sample(item.question, text, item.answer, int(mask[b, g].sum()), not ended[b, g], item)
        for b, item in enumerate(items)
        for g, text in enumerate(texts[b])
    ]
    score = functools.partial(score_all, setup.rewards, task=setup.task, timeout_s=setup.settings.run.reward_timeout)
    rewards = shared_rewards(score, samples)
    if rewards.first_error and not run.warned:
        run.warned = True
        _log.warning("%s (said once; counted as reward_errors)", rewards.first_error)
    return rewards, [
        {
            "prompt": s.prompt,
            "completion": s.completion,
            "answer": s.answer,
            "rewards": {"total": rewards.total[i], **{name: c[i] for name, c in rewards.components.items()}},
        }
        for i, s in enumerate(samples)
    ]


def make_batch(
    run: GRPORun,
    state: TrainState,
    prompts: tuple[np.ndarray, np.ndarray],
    completions: Completions,
    rewards_BG: jax.Array,
) -> GRPOBatch:
    """Advantages, and the log-probabilities that stay fixed during the updates."""
    setup, settings = run.setup, run.setup.settings
    advantages = group_advantages if settings.run.scale == "group" else centered_advantages
    tokens, mask = map(jnp.asarray, prompts)
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


def reward_metrics(rewards: Rewards, rewards_BG: jax.Array) -> dict[str, Any]:
    """Names as in TRL: total and components, and how many groups cannot teach."""
    components: dict[str, Any] = {}
    for name, values in rewards.components.items():
        components |= {f"rewards/{name}/mean": values.mean(), f"rewards/{name}/std": values.std(ddof=1)}
    return {
        "reward": rewards.total.mean(),
        "reward_std": np.asarray(rewards_BG).std(axis=-1, ddof=1).mean(),
        "frac_reward_zero_std": np.asarray(zero_variance_share(rewards_BG)),
        "reward_errors": rewards.errors,
        **components,
    }


def completion_metrics(completions: Completions) -> dict[str, Any]:
    """Lengths in tokens, the end token included."""
    lengths = np.asarray(completions.mask_BGC).sum(-1)
    return {
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
    }
