"""One step of supervised fine-tuning: the next rows, and an update on them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.keys import keys
from experiments.mesh import batched, keyed
from experiments.run import Run
from experiments.sft.setup import SFTSetup
from lqlm.algorithms.sft import SFTBatch
from lqlm.algorithms.step import TrainState
from lqlm.tasks.packing import PackedRows


def one_step(run: Run[SFTSetup], state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """One update; a function of (state, step) and of the position in a stream, so that a resumed run repeats it."""
    setup, history = run.setup, run.history
    key = jax.random.fold_in(keys(setup.settings.seed)[1], step)
    with run.timers.phase("data"):
        rows, history["data"] = setup.data.feed.at(step, history.get("data", []))
    with run.timers.phase("update") as lap:
        args = (setup.model.base, batch_of(rows, setup.mesh), keyed(setup.mesh, key))
        state, found = jax.block_until_ready(setup.functions.update(state, *args))
        metrics = {name: np.asarray(value) for name, value in found.items()}
        lap.tokens += int(metrics["tokens"])
    history["num_tokens"] = history.get("num_tokens", 0) + int(metrics["tokens"])
    epoch = setup.data.feed.epoch(step + 1)
    passed = {} if epoch is None else {"epoch": epoch}
    return state, {**metrics, "num_tokens": history["num_tokens"], "fill": fill(rows), **passed}


def batch_of(rows: PackedRows, mesh: Mesh | None = None) -> SFTBatch:
    """Rows on the device, or split over the data axes of a mesh."""
    return SFTBatch(*map(jnp.asarray, rows)) if mesh is None else SFTBatch(*batched(mesh, tuple(rows)))


def fill(rows: PackedRows) -> float:
    """Share of a batch that is no padding."""
    return float(np.mean(rows.segments_BT > 0))
