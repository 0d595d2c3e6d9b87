"""One step of online DPO: sample, reward, pair, update.

A function of (state, step) alone, so that a resumed run repeats it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.online_dpo.setup import OnlineDPOSetup
from experiments.rollouts.annotate import with_tokens
from experiments.rollouts.sample import Rollout, completion_metrics, progress, reward, reward_metrics, rollout
from experiments.run import Run
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.step import TrainState
from lqlm.sharding import whole
from lqlm.tasks.base import batch_at

OnlineRun = Run[OnlineDPOSetup]


def one_step(run: OnlineRun, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One rollout, and one update on its pairs."""
    setup, settings = run.setup, run.setup.settings
    sample_key, update_key = jax.random.split(jax.random.fold_in(keys(settings.seed)[1], step))
    items = batch_at(setup.task.train, step, settings.run.prompts, settings.seed)
    drawn = rollout(run, state.adapters, items, sample_key)
    rewards, rows = reward(run, items, drawn.completions)
    run.writer.samples(step + 1, with_tokens(rows[: settings.run.samples], drawn.completions, setup.model.tokenizer))
    run.shown = rows[0]
    rewards_BG = rewards.total.reshape(len(items), -1)
    state, metrics = updated(run, state, make_pairs(run, drawn, rewards_BG), update_key)
    return state, {
        **metrics,
        **reward_metrics(rewards, rewards_BG),
        **completion_metrics(drawn.completions, setup.model.tokenizer.eos_ids),
        "rollouts_total": (step + 1) * rewards_BG.size,
        **progress(run, (step + 1) * rewards_BG.size, metrics["tokens"]),
    }


def make_pairs(run: OnlineRun, drawn: Rollout, rewards_BG: np.ndarray) -> PairBatch:
    """The pairs of a rollout, with the reference's log-probabilities."""
    setup, done = run.setup, drawn.completions
    arrays = (drawn.tokens_BP, drawn.mask_BP, done.tokens_BGC, done.mask_BGC, np.zeros(len(rewards_BG), np.float32))
    groups = PairBatch(*(jnp.asarray(np.asarray(x)) for x in arrays))  # type: ignore[arg-type]
    batch = batched(setup.mesh, setup.functions.paired(groups, jnp.asarray(rewards_BG)))
    with run.timers.phase("logprob") as lap:
        ref = jax.block_until_ready(setup.functions.reference(setup.model.base, batch))
        lap.tokens += np.asarray(whole(batch.completion_mask_BGC)).sum().item()
    return batch.replace(ref_logp_BGC=ref)  # type: ignore[attr-defined]


def updated(
    run: OnlineRun, state: TrainState, batch: PairBatch, key: jax.Array
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """One optimizer update; its key is consumed."""
    setup = run.setup
    with run.timers.phase("update") as lap:
        state, found = jax.block_until_ready(
            setup.functions.update(state, setup.model.base, batch, keyed(setup.mesh, key))
        )
        metrics = {name: np.asarray(value) for name, value in found.items()}
        lap.tokens += int(metrics["tokens"])
    return state, metrics
