"""One step of an actor-critic: sample, score, estimate, update.

A function of (state, step) and of the two coefficients in the run's history.  They are kept there, not among what is
trained: the optimizer would give them moments and decay, the gradient's norm would count them, and what is written of
the adapters would have to leave them out.  A checkpoint holds the history as it was at its step.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.ppo.experience import Judged
from experiments.ppo.settings import ActorCriticExperiment, PPOExperiment
from experiments.ppo.setup import ActorCriticSetup
from experiments.rollouts.annotate import with_tokens, with_values
from experiments.rollouts.sample import (
    Rollout,
    completion_metrics,
    progress,
    reward,
    reward_metrics,
    rollout,
    terminated,
)
from experiments.run import Run
from experiments.sft.step import batch_of
from lqlm.algorithms.actor_critic import PPOBatch, minibatch_rows
from lqlm.algorithms.kl_control import next_penalty
from lqlm.algorithms.step import TrainState
from lqlm.sharding import whole
from lqlm.tasks.base import batch_at

ActorCriticRun = Run[ActorCriticSetup]
LAST = ("skipped", "skipped_total")
TRL_NAMES = {
    "policy/approxkl_avg": "approx_kl",
    "policy/clipfrac_avg": "clip_ratio/region_mean",
    "policy/entropy_avg": "entropy",
    "loss/policy_avg": "policy_loss",
    "loss/value_avg": "value_loss",
    "val/clipfrac_avg": "value_clip_ratio",
    "val/ratio": "ratio",
}


def one_step(run: ActorCriticRun, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One rollout and the updates on it."""
    setup, settings = run.setup, run.setup.settings
    sample_key, update_key = jax.random.split(jax.random.fold_in(keys(settings.seed)[1], step))
    items = batch_at(setup.task.train, step, settings.run.prompts, settings.seed)
    drawn = rollout(run, state.adapters["policy"], items, sample_key)
    rewards, rows = reward(run, items, drawn.completions)
    rewards_BG = rewards.total.reshape(len(items), -1)
    batch, found = experience(run, state, drawn, rewards_BG)
    kept = with_tokens(rows[: settings.run.samples], drawn.completions, setup.model.tokenizer)
    known = {"advantage": whole(batch.experience.advantages)}
    run.writer.samples(step + 1, with_values(kept, drawn.completions, known))
    run.shown = rows[0]
    state, metrics = updates(run, state, batch, update_key, step)
    eos_ids = setup.model.tokenizer.eos_ids
    return state, {
        **metrics,
        **found,
        **reward_metrics(rewards, rewards_BG),
        **completion_metrics(drawn.completions, eos_ids),
        "val/num_eos_tokens": int(terminated(drawn.completions, eos_ids).sum()),  # the mask ends with the first
        "episode": (step + 1) * rewards_BG.size,
        **progress(run, (step + 1) * rewards_BG.size, metrics["tokens"]),
    }


def experience(
    run: ActorCriticRun, state: TrainState, drawn: Rollout, rewards_BG: np.ndarray
) -> tuple[PPOBatch, dict[str, Any]]:
    """What stays fixed during the updates; the coefficient of the divergence moves on to the next rollout."""
    setup, completions = run.setup, drawn.completions
    ended = terminated(completions, setup.model.tokenizer.eos_ids)
    fields = (drawn.tokens_BP, drawn.mask_BP, completions.tokens_BGC, completions.mask_BGC, rewards_BG, ended)
    judged = batched(setup.mesh, Judged(*map(jnp.asarray, fields)))
    coefficient = np.float32(run.history.get("kl_coef", setup.settings.kl.coefficient))
    with run.timers.phase("logprob") as lap:
        args = (setup.model.base, state.adapters, setup.reference, judged, coefficient)
        batch, metrics = jax.block_until_ready(setup.functions.experience(*args))
        lap.tokens += 3 * np.asarray(completions.mask_BGC).sum().item()  # policy, reference and value function
    found = {name: np.asarray(value) for name, value in metrics.items()}
    run.history["kl_coef"] = float(found.pop("next_kl_coef"))
    return batch, found


def updates(
    run: ActorCriticRun, state: TrainState, batch: PPOBatch, key: jax.Array, step: int
) -> tuple[TrainState, dict[str, Any]]:
    """Epochs over a rollout, each in minibatches of its own; metrics are means over them."""
    settings = run.setup.settings
    penalty, found = _penalty(run), []
    with run.timers.phase("update") as lap:
        for number, (rows, update_key) in enumerate(plan(settings, key)):
            data = (_beside(run, batch, penalty, step * settings.run.updates + number), rows)
            args = (run.setup.model.base, data, keyed(run.setup.mesh, update_key))
            state, metrics = jax.block_until_ready(run.setup.functions.update(state, *args))
            found.append({name: np.asarray(value) for name, value in metrics.items()})
            lap.tokens += 2 * int(found[-1]["tokens"])  # policy and value function
    summary = averages(found, settings.run.passes[0])
    if penalty is not None:
        run.history["penalty"] = _next_penalty(settings, penalty, found[-settings.run.passes[1] :])
        summary["penalty"] = penalty
    return state, summary


def plan(settings: ActorCriticExperiment, key: jax.Array) -> list[tuple[np.ndarray, jax.Array]]:
    """Rows and key of each update of a step, whose key is consumed."""
    epochs, minibatches = settings.run.passes
    found = []
    for epoch in range(epochs):
        order_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
        rows = np.asarray(minibatch_rows(order_key, settings.run.prompts, minibatches))
        found += [(part, jax.random.fold_in(noise_key, n)) for n, part in enumerate(rows)]
    return found


def _beside(run: ActorCriticRun, batch: PPOBatch, penalty: float | None, number: int) -> PPOBatch:
    """The rollout with what else an update looks at: the penalty, and the pretraining rows of its number."""
    feed = run.setup.pretraining
    rows = None if feed is None else batch_of(feed.at(number, [])[0], run.setup.mesh)
    weight = None if penalty is None else jnp.float32(penalty)
    return batch.replace(penalty=weight, pretraining=rows)  # type: ignore[attr-defined]


def _penalty(run: ActorCriticRun) -> float | None:
    """The coefficient of the unclipped loss; None where the loss is another."""
    settings = run.setup.settings
    if not isinstance(settings, PPOExperiment) or settings.run.surrogate == "clip":
        return None
    return run.history.get("penalty", settings.penalty.coefficient)


def _next_penalty(settings: Any, penalty: float, last_epoch: Sequence[dict[str, np.ndarray]]) -> float:
    """By the divergence in the last epoch, before each of its updates."""
    if settings.penalty.target is None:
        return penalty
    kl = np.float32(np.mean([metrics["old_kl"] for metrics in last_epoch]))
    return float(next_penalty(jnp.float32(penalty), jnp.asarray(kl), settings.penalty.target))


def averages(found: Sequence[dict[str, np.ndarray]], epochs: int) -> dict[str, Any]:
    """Means over the updates of a step, also under TRL's names; of the counters of skips the last.

    ``tokens`` are those of the rollout.  TRL's means of ``policy/approxkl_avg`` and ``val/ratio`` run over the padding
    too; these do not.

    Args:
        found: metrics of each update.
        epochs: how often each token was among them.
    """
    means = {name: np.mean([metrics[name] for metrics in found]) for name in found[0]}
    means |= {name: found[-1][name] for name in LAST}
    means |= {name: np.sum([metrics[name] for metrics in found]) / epochs for name in ("tokens", "states")}
    ratios = [metrics["ratio"] for metrics in found]
    variance = np.var(ratios, ddof=1) if len(ratios) > 1 else 0.0
    return means | {trl: means[ours] for trl, ours in TRL_NAMES.items() if ours in means} | {"val/ratio_var": variance}
