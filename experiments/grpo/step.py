"""One step of GRPO: sample, reward, compare, update.

A function of (state, step) alone, and of what the run's history remembers: the number of samples until now, and the
running anchor of advantages that have one.  So a resumed run repeats it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.grpo import iterative
from experiments.grpo.demonstrations import with_demonstrations
from experiments.grpo.drawn import Drawn, draw
from experiments.grpo.iterative import IterativeState
from experiments.grpo.kinds import Context
from experiments.grpo.remedies import Mixed
from experiments.grpo.settings import DemonstrationSettings, Fixed, OffPolicySettings
from experiments.grpo.setup import GRPOSetup
from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.rollouts.annotate import with_values
from experiments.rollouts.sample import progress, terminated
from experiments.run import Run
from lqlm.algorithms.grpo import GRPOBatch
from lqlm.algorithms.off_policy import with_demonstration
from lqlm.algorithms.policy import penalized_rewards
from lqlm.algorithms.remedies import failing_groups
from lqlm.algorithms.selection import without_truncated
from lqlm.algorithms.step import TrainState
from lqlm.sharding import whole
from lqlm.types import Array, PyTree

GRPORun = Run[GRPOSetup]


def one_step(run: GRPORun, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One rollout (or more, where groups are sampled again) and the updates on it."""
    settings = run.setup.settings
    sample_key, update_key = jax.random.split(jax.random.fold_in(keys(settings.seed)[1], step))
    reference, plain = None, state
    if isinstance(state, IterativeState):
        state = iterative.renewed(state, step, settings.run.reference_every)
        reference, plain = state.reference, state.plain
    drawn = draw(run, state.adapters, step, sample_key)
    batch = make_batch(run, state.adapters, reference, drawn)
    show(run, step, drawn, batch)
    new, metrics = updates(run, plain, batch, update_key)
    if isinstance(state, IterativeState):
        new = iterative.with_reference(new, reference)
    return new, {**metrics, **drawn.metrics, **progress(run, drawn.metrics["rollouts_total"], metrics["tokens"])}


def show(run: GRPORun, step: int, drawn: Drawn, batch: GRPOBatch) -> None:
    """Write some of the first rollout down: with what was made of each token, where it is what is learned from."""
    rows = drawn.rows
    if isinstance(run.setup.settings.resampling, Fixed):
        known = {"advantage": whole(batch.advantages_BG), "ref_logp": whole(batch.ref_logp_BGC)}
        rows = with_values(rows, drawn.rollout.completions, known)
    run.writer.samples(step + 1, rows[: run.setup.settings.run.samples])
    run.shown = rows[0]


def make_batch(run: GRPORun, adapters: PyTree, reference: PyTree | None, drawn: Drawn) -> GRPOBatch:
    """Advantages, and the log-probabilities that stay fixed during the updates."""
    setup, settings = run.setup, run.setup.settings
    completions, mesh = drawn.rollout.completions, setup.mesh
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    if setup.demonstrations:
        tokens, mask = with_demonstrations(completions, drawn.items, setup.demonstrations, setup.prompts.pad_id)
    rewards = jnp.asarray(drawn.rewards_BG)
    prompts = jnp.asarray(drawn.rollout.tokens_BP), jnp.asarray(drawn.rollout.mask_BP)
    batch = GRPOBatch(*prompts, jnp.asarray(tokens), jnp.asarray(mask), jnp.zeros_like(rewards))
    batch = batched(mesh, batch)
    fixed = fixed_scores(run, adapters, reference, batch)
    advantages = compare(run, drawn, fixed)
    if settings.run.mask_truncated_completions:
        batch = dataclasses.replace(batch, completion_mask_BGC=_overlong_filtered(run, drawn, jnp.asarray(mask)))
    more: dict[str, Any] = {"ref_logp_BGC": fixed.get("ref")}
    more["old_logp_BGC"] = fixed.get("old") if settings.run.updates > 1 else None
    if setup.demonstrations:
        advantages, shown = of_demonstrations(settings.demonstrations, advantages, rewards)
        more["demonstration_B"] = batched(mesh, shown)
    more["advantages_BG"] = batched(mesh, advantages)
    return dataclasses.replace(batch, **more)


def of_demonstrations(
    settings: DemonstrationSettings | OffPolicySettings, advantages: Array, rewards_BG: Array
) -> tuple[Array, Array]:
    """The advantages of the samples; of each group's demonstration its advantage, or the weight of its likelihood."""
    if isinstance(settings, OffPolicySettings):
        return advantages[:, :-1], advantages[:, -1]
    return advantages, settings.weight * failing_groups(rewards_BG, right=settings.right)


def fixed_scores(run: GRPORun, adapters: PyTree, reference: PyTree | None, batch: GRPOBatch) -> dict[str, Array]:
    """Of the batch under the reference (``ref``) and the policy that drew it (``old``, ``entropy``): what is needed."""
    setup, settings = run.setup, run.setup.settings
    base, cfg, found = setup.model.base, settings.grpo, {}
    sampled = np.asarray(whole(batch.completion_mask_BGC)).sum().item()
    with run.timers.phase("logprob") as lap:
        if cfg.beta:
            found["ref"] = setup.functions.score(base, reference, batch)
        if settings.advantage.needs_entropy:
            found["old"], found["entropy"] = setup.functions.scores(base, adapters, batch)
        elif settings.run.updates > 1 or (cfg.beta and cfg.kl_place == "reward"):
            found["old"] = setup.functions.score(base, adapters, batch)
        jax.block_until_ready(found)
        lap.tokens += sampled * (("ref" in found) + ("old" in found))
    return found


def compare(run: GRPORun, drawn: Drawn, fixed: dict[str, Array]) -> Array:
    """The advantages of the samples, and last in its group of a demonstration that is compared with them.

    An anchor that runs is moved on.
    """
    settings, kind = run.setup.settings, run.setup.settings.advantage
    if drawn.advantages_BG is not None:
        return jnp.asarray(drawn.advantages_BG)
    rewards, mask = jnp.asarray(drawn.rewards_BG), jnp.asarray(drawn.rollout.completions.mask_BGC)
    samples = {name: jnp.asarray(np.asarray(whole(x))[:, : rewards.shape[1]]) for name, x in fixed.items()}
    if settings.grpo.beta and settings.grpo.kl_place == "reward":
        arrays = samples["old"], samples["ref"], mask
        rewards = penalized_rewards(rewards, *arrays, settings.grpo.beta, settings.grpo.kl)
    if isinstance(settings.demonstrations, OffPolicySettings):
        rewards = with_demonstration(rewards, settings.demonstrations.reward)
    anchor = run.history.get("anchor", kind.anchor) if isinstance(kind, Mixed) else 0.0
    weights = {name: part.weight for name, part in settings.rewards.items()}
    context = Context(
        rewards_BG=rewards,
        components_KBG=jnp.nan_to_num(jnp.stack([jnp.asarray(x) for x in drawn.components.values()])),
        weights_K=jnp.array(
            [weights.get(name, settings.reward_model.weight) for name in drawn.components], jnp.float32
        ),
        mask_BGC=mask,
        entropy_BGC=samples.get("entropy"),
        anchor=jnp.float32(anchor),
        step_scores_BGC=None if drawn.steps is None else jnp.asarray(drawn.steps.scores_BGC),
        step_ends_BGC=None if drawn.steps is None else jnp.asarray(drawn.steps.ends_BGC),
    )
    if isinstance(kind, Mixed):
        run.history["anchor"] = kind.next_anchor(anchor, rewards)
    return kind(context)


def _overlong_filtered(run: GRPORun, drawn: Drawn, mask: Array) -> Array:
    """The mask without samples that were cut off; a demonstration stays."""
    ended = jnp.asarray(terminated(drawn.rollout.completions, run.setup.model.tokenizer.eos_ids))
    more = jnp.ones((len(mask), mask.shape[1] - ended.shape[1]), bool)
    return batched(run.setup.mesh, without_truncated(mask, jnp.concatenate([ended, more], axis=1)))


def updates(run: GRPORun, state: TrainState, batch: GRPOBatch, key: jax.Array) -> tuple[TrainState, dict[str, Any]]:
    """``run.updates`` optimizer updates on one batch; the metrics are the last one's."""
    metrics: dict[str, Any] = {}
    with run.timers.phase("update") as lap:
        for number in range(run.setup.settings.run.updates):
            args = (run.setup.model.base, batch, keyed(run.setup.mesh, jax.random.fold_in(key, number)))
            state, metrics = jax.block_until_ready(run.setup.functions.update(state, *args))
            lap.tokens += int(metrics["tokens"])
    return state, {name: np.asarray(value) for name, value in metrics.items()}
