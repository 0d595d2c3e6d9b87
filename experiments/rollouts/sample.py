"""Samples of a batch of problems, their rewards, and what is logged of both."""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decoding import texts_of
from experiments.hosts import shared_rewards
from experiments.rollouts.scoring import with_score
from experiments.rollouts.setup import RolloutSetup
from experiments.run import Run
from lqlm.algorithms.advantages import zero_variance_share
from lqlm.generation.decode import Completions
from lqlm.rewards.combine import Rewards, score_all
from lqlm.rewards.specs import Sample, judges
from lqlm.tasks.base import Item
from lqlm.types import PyTree

_log = logging.getLogger("lqlm")


class Rollout(NamedTuple):
    """Completions of B problems, G of each, and the padded prompts that they follow."""

    tokens_BP: np.ndarray
    mask_BP: np.ndarray
    completions: Completions


def rollout(run: Run, adapters: PyTree, items: Sequence[Item], key: jax.Array) -> Rollout:
    """Sample the group of every prompt."""
    setup: RolloutSetup = run.setup
    prompts = setup.prompts.batch(items)
    with run.timers.phase("rollout") as lap:
        policy = setup.sampling.policy(setup.model.base, adapters)
        completions = jax.block_until_ready(setup.sampling.sample(*policy, *prompts, key))
        lap.tokens += np.asarray(completions.mask_BGC).sum().item()
    return Rollout(*prompts, completions)


def reward(run: Run, items: Sequence[Item], completions: Completions) -> tuple[Rewards, list[dict[str, Any]]]:
    """Rewards of all completions, and what a person may want to read of them.

    Raises:
        UserError: naming a function that failed on every one of them.
    """
    with run.timers.phase("reward"):
        samples, rewards = judged(run, items, completions)
    rewards.checked()
    if rewards.first_error and not run.warned:
        run.warned = True
        _log.warning("%s (said once; counted as reward_errors)", rewards.first_error)
    return rewards, [_row(sample, rewards, i) for i, sample in enumerate(samples)]


def judged(run: Run, items: Sequence[Item], completions: Completions) -> tuple[list[Sample], Rewards]:
    """All completions as rewards see them, and their rewards, learned ones included; failures are counted."""
    setup: RolloutSetup = run.setup
    mask, texts = np.asarray(completions.mask_BGC), texts_of(setup.model.tokenizer, completions)
    ended = terminated(completions, setup.model.tokenizer.eos_ids)
    samples = [
        Sample(item.question, text, item.answer, int(mask[b, g].sum()), not ended[b, g], item)
        for b, item in enumerate(items)
        for g, text in enumerate(texts[b])
    ]
    timeout = setup.settings.run.reward_timeout
    score = functools.partial(score_all, setup.rewards, task=setup.task, timeout_s=timeout, some=True, pool=setup.pool)
    rewards = shared_rewards(score, samples)
    if judge := setup.sampling.judge:
        learned = judge(setup.model.base, setup.prompts.batch(items), completions)
        meant = np.array([judges(judge.settings.scenarios, sample.item) for sample in samples])
        rewards = with_score(rewards, learned, judge.settings.weight, meant)
    return samples, rewards


def _row(sample: Sample, rewards: Rewards, i: int) -> dict[str, Any]:
    told = {name: values[i] for name, values in rewards.components.items() if not np.isnan(values[i])}
    worth = {"total": rewards.total[i], **told}
    return {"prompt": sample.prompt, "completion": sample.completion, "answer": sample.answer, "rewards": worth}


def terminated(completions: Completions, eos_ids: Sequence[int]) -> np.ndarray:
    """Whether each completion came to its end before the token limit: bool [B, G]."""
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    return (np.isin(tokens, eos_ids) & mask).any(-1)


def reward_metrics(rewards: Rewards, rewards_BG: np.ndarray) -> dict[str, Any]:
    """Names as in TRL: total and components, and how many groups cannot teach."""
    components: dict[str, Any] = {}
    for name, every in rewards.components.items():
        values = every[~np.isnan(every)]  # of those that it judges
        mean = values.mean() if values.size else np.nan
        components |= {f"rewards/{name}/mean": mean, f"rewards/{name}/std": spread(values)}
    return {
        "reward": rewards.total.mean(),
        "reward_std": spread(rewards_BG).mean(),
        "frac_reward_zero_std": np.asarray(zero_variance_share(jnp.asarray(rewards_BG))),
        "reward_errors": rewards.errors,
        **components,
    }


def spread(values: np.ndarray) -> np.ndarray:
    """Bessel's standard deviation over the last axis; 0 of a single value."""
    return values.std(axis=-1, ddof=1) if values.shape[-1] > 1 else np.zeros(values.shape[:-1])


def completion_metrics(completions: Completions, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Lengths in tokens, the end token included, under TRL's names; ``clipped_ratio`` is the share without an end."""
    lengths, ended = np.asarray(completions.mask_BGC).sum(-1), terminated(completions, eos_ids)
    whole = lengths[ended] if ended.any() else np.zeros(1)
    found = {"completions/clipped_ratio": 1.0 - ended.mean()}
    for name, of in (("length", lengths), ("terminated_length", whole)):
        found |= {f"completions/{how}_{name}": getattr(of, how)() for how in ("mean", "min", "max")}
    return found


def progress(run: Run, samples: int, tokens: Any) -> dict[str, Any]:
    """How far a run has come, under TRL's names: passes through the problems, and tokens learned from.

    Args:
        run: whose history counts the tokens.
        samples: drawn since its first step.
        tokens: of this step's update.
    """
    run.history["num_tokens"] = run.history.get("num_tokens", 0) + int(tokens)
    each = run.setup.settings.run.group * len(run.setup.task.train)
    return {"epoch": samples / each, "num_tokens": run.history["num_tokens"]}
