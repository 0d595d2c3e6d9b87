"""The samples that a step learns from: one rollout, groups that grow, or fresh prompts for groups that cannot teach."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.grpo.advantages import Process
from experiments.grpo.settings import Dynamic, Growing
from experiments.grpo.supervision import Scored, scored
from experiments.rollouts.annotate import with_tokens
from experiments.rollouts.sample import Rollout, completion_metrics, reward, reward_metrics, rollout
from experiments.run import Run
from lqlm.algorithms.advantages import all_equal, zero_variance_share
from lqlm.algorithms.resampling import grown_advantages, grown_centered_advantages, informative_first, kept_samples
from lqlm.generation.decode import Completions
from lqlm.tasks.base import Item, batch_at
from lqlm.types import PyTree

_log = logging.getLogger("lqlm")


class Drawn(NamedTuple):
    """B groups to learn from.

    Attributes:
        items: their problems.
        rollout: padded prompts and completions.
        rewards_BG: float32.
        components: name -> float32 [B, G]; NaN where one does not judge.
        advantages_BG: where the groups have grown: they depend on samples that are not here; else None.
        metrics: of the first rollout, which every way of sampling shares, and the number of samples.
        rows: what a person may want to read of the first rollout.
        steps: scores of the steps, with process supervision.
    """

    items: Sequence[Item]
    rollout: Rollout
    rewards_BG: np.ndarray
    components: dict[str, np.ndarray]
    advantages_BG: np.ndarray | None
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    steps: Scored | None = None


def draw(run: Run, adapters: PyTree, step: int, key: jax.Array) -> Drawn:
    """The samples of a step; how many there were since the first step is remembered in the run's history."""
    settings = run.setup.settings
    ways = {Growing: _growing, Dynamic: _dynamic}
    drawn = ways.get(type(settings.resampling), _fixed)(run, adapters, step, key)
    total = int(run.history.get("rollouts", 0)) + drawn.metrics["rollouts"]
    run.history["rollouts"] = total
    used = float(zero_variance_share(jnp.asarray(drawn.rewards_BG)))
    return drawn._replace(metrics=drawn.metrics | {"rollouts_total": total, "frac_update_zero_std": used})


def _fixed(run: Run, adapters: PyTree, step: int, key: jax.Array) -> Drawn:
    settings = run.setup.settings
    return _once(run, adapters, batch_at(run.setup.task.train, step, settings.run.prompts, settings.seed), key)


def _once(run: Run, adapters: PyTree, items: Sequence[Item], key: jax.Array) -> Drawn:
    """One rollout."""
    drawn = rollout(run, adapters, items, key)
    rewards, rows = reward(run, items, drawn.completions)
    rewards_BG = rewards.total.reshape(len(items), -1)
    components = {name: values.reshape(rewards_BG.shape) for name, values in rewards.components.items()}
    metrics = reward_metrics(rewards, rewards_BG) | {"rollouts": rewards_BG.size}
    metrics |= completion_metrics(drawn.completions, run.setup.model.tokenizer.eos_ids)
    kept = with_tokens(rows[: max(run.setup.settings.run.samples, 1)], drawn.completions, run.setup.model.tokenizer)
    found = Drawn(items, drawn, rewards_BG, components, None, metrics, kept)
    return _with_steps(run, found) if isinstance(run.setup.settings.advantage, Process) else found


def _with_steps(run: Run, drawn: Drawn) -> Drawn:
    """The same with the scores of steps; a failure of their function is said once, and counted."""
    steps = scored(run, drawn.items, drawn.rollout.completions)
    if steps.first_error and not run.warned:
        run.warned = True
        _log.warning("%s (said once; counted as reward_errors)", steps.first_error)
    metrics = drawn.metrics | steps.metrics | {"reward_errors": drawn.metrics["reward_errors"] + steps.errors}
    rows = [{**row, "steps": scores} for row, scores in zip(drawn.rows, steps.rows)]
    return drawn._replace(metrics=metrics, rows=rows, steps=steps)


def _dynamic(run: Run, adapters: PyTree, step: int, key: jax.Array) -> Drawn:
    """Fresh prompts until as many groups as the batch has differ in their rewards, or the rounds are over."""
    settings = run.setup.settings
    count, rounds = settings.run.prompts, 1 + settings.resampling.rounds
    keys, parts, equal = jax.random.split(key, rounds), [], []
    for number in range(rounds):
        items = batch_at(run.setup.task.train, step * rounds + number, count, settings.seed)
        parts.append(_once(run, adapters, items, keys[number]))
        equal += np.asarray(all_equal(jnp.asarray(_compared(parts[-1], settings.resampling)))).tolist()
        if equal.count(False) >= count:
            break
    chosen = informative_first(equal, count)
    places = np.stack([np.repeat(chosen, settings.run.group), np.tile(range(settings.run.group), count)], -1)
    return _gathered(parts, chosen, places.reshape(count, -1, 2), count * settings.run.group * len(parts))


def _compared(part: Drawn, resampling: Dynamic) -> np.ndarray:
    """The rewards that decide whether a group can teach, [B, G]; the sum where the component does not judge."""
    if not resampling.component:
        return part.rewards_BG
    values = part.components[resampling.component]
    return np.where(np.isnan(values), part.rewards_BG, values)


def _growing(run: Run, adapters: PyTree, step: int, key: jax.Array) -> Drawn:
    """Further samples of the prompts whose rewards are all equal, until they differ or the rounds are over."""
    settings = run.setup.settings
    count, group, rounds = settings.run.prompts, settings.run.group, 1 + settings.resampling.rounds
    keys = jax.random.split(key, rounds)
    parts = [_fixed(run, adapters, step, keys[0])]
    groups = [[place] for place in range(count)]  # of each prompt, its groups among those of all parts
    for number in range(1, rounds):
        rewards = np.concatenate([part.rewards_BG for part in parts])
        same = [b for b, own in enumerate(groups) if len(np.unique(rewards[own])) == 1]
        if not same:
            break
        again = [same[i % len(same)] for i in range(count)]
        items = [parts[0].items[b] for b in again]
        for place, b in enumerate(again):
            groups[b].append(number * count + place)
        parts.append(_once(run, adapters, items, keys[number]))
    return _kept(parts, groups, group, 1 + settings.resampling.rounds * count, settings.advantage.kind == "group")


def _kept(parts: list[Drawn], groups: list[list[int]], group: int, most: int, scaled: bool) -> Drawn:
    """Of each prompt's samples those that are learned from, with the advantages that all of them give."""
    rewards = np.concatenate([part.rewards_BG for part in parts])
    all_BN, mask_BN = np.zeros((len(groups), most * group), np.float32), np.zeros((len(groups), most * group), bool)
    places_BN2 = np.zeros((*mask_BN.shape, 2), int)
    for b, own in enumerate(groups):
        size = len(own) * group
        all_BN[b, :size], mask_BN[b, :size] = rewards[own].reshape(-1), True
        places_BN2[b, :size] = [(g, i) for g in own for i in range(group)]
    indices, advantages = jax.device_get((_choose_scaled if scaled else _choose_centred)(all_BN, mask_BN, group))
    places = np.take_along_axis(places_BN2, indices[..., None], axis=1)
    drawn = _gathered(parts, list(range(len(groups))), places, rewards.size)
    return drawn._replace(advantages_BG=advantages)


def _choose_scaled(rewards_BN: np.ndarray, mask_BN: np.ndarray, keep: int) -> tuple[jax.Array, jax.Array]:
    return _choose(grown_advantages, rewards_BN, mask_BN, keep)


def _choose_centred(rewards_BN: np.ndarray, mask_BN: np.ndarray, keep: int) -> tuple[jax.Array, jax.Array]:
    return _choose(grown_centered_advantages, rewards_BN, mask_BN, keep)


def _choose(score: Any, rewards_BN: np.ndarray, mask_BN: np.ndarray, keep: int) -> tuple[jax.Array, jax.Array]:
    """Indices and weighted advantages of the kept samples."""
    advantages = score(jnp.asarray(rewards_BN), jnp.asarray(mask_BN))
    kept = kept_samples(advantages, jnp.asarray(mask_BN), keep)
    return kept.indices_BK, jnp.take_along_axis(advantages, kept.indices_BK, axis=-1) * kept.factors_BK


def _gathered(parts: list[Drawn], prompts: list[int], places_BG2: np.ndarray, rollouts: int) -> Drawn:
    """The batch of some prompts (numbered through all parts) and samples (group, sample); metrics of the first part."""
    length = max(part.rollout.tokens_BP.shape[1] for part in parts)
    pad = [((0, 0), (length - part.rollout.tokens_BP.shape[1], 0)) for part in parts]  # prompts are left-padded
    tokens = np.concatenate([np.pad(p.rollout.tokens_BP, w, mode="edge") for p, w in zip(parts, pad)])[prompts]
    mask = np.concatenate([np.pad(p.rollout.mask_BP, w) for p, w in zip(parts, pad)])[prompts]
    at = places_BG2[..., 0], places_BG2[..., 1]
    pick = lambda arrays: np.concatenate([np.asarray(x) for x in arrays])[at]  # noqa: E731
    items = [item for part in parts for item in part.items]
    done = [part.rollout.completions for part in parts]
    names = ("tokens_BGC", "logp_BGC", "mask_BGC")
    completions = Completions(**{name: pick([getattr(c, name) for c in done]) for name in names}, steps=done[0].steps)
    return Drawn(
        items=[items[prompt] for prompt in prompts],
        rollout=Rollout(tokens, mask, completions),
        rewards_BG=pick([part.rewards_BG for part in parts]),
        components={name: pick([part.components[name] for part in parts]) for name in parts[0].components},
        advantages_BG=None,
        metrics=parts[0].metrics | {"rollouts": rollouts},
        rows=parts[0].rows,
    )
