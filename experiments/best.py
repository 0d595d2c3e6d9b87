"""The best adapters of a run, and when to stop looking for better ones.

Both are functions of the evaluations so far, which a checkpoint holds, together with the best adapters themselves: a
run that was killed stops where one that was left alone does, with the same result.
"""

import math

import flax.struct
import jax

from experiments.mesh import laid_out
from experiments.run import Run
from lqlm.algorithms.step import TrainState
from lqlm.sharding import whole
from lqlm.trees import commit
from lqlm.types import PyTree


@flax.struct.dataclass
class Watched:
    """What a checkpoint holds where patience is set."""

    state: TrainState
    best: PyTree


def best_step(run: Run) -> int:
    """The step of the best evaluation; the first of equals, and one that is no number is worse than any."""
    more = run.algorithm.watched[1]
    name = run.algorithm.watches(next(iter(run.history["eval"].values()))) or ""

    def value(item: tuple[str, dict[str, float]]) -> float:
        found = item[1][name] if more else -item[1][name]
        return -math.inf if math.isnan(found) else found

    return int(max(run.history["eval"].items(), key=value)[0])


def exhausted(run: Run) -> bool:
    """Whether as many evaluations as the run has patience for came after the best one."""
    patience = run.setup.settings.run.patience
    return bool(patience) and sum(int(step) > best_step(run) for step in run.history["eval"]) >= patience


def remember(run: Run, state: TrainState, step: int) -> None:
    """Keep a copy of adapters that have just been found the best."""
    if run.setup.settings.run.patience and best_step(run) == step:
        run.best = jax.device_get(whole(state.adapters))


def saved_form(run: Run, state: TrainState, best: PyTree) -> PyTree:
    """What a checkpoint holds: the state, and the best adapters beside it where patience is set."""
    return Watched(state, best) if run.setup.settings.run.patience else state


def taken_apart(run: Run, saved: PyTree) -> TrainState:
    """The state of a checkpoint; its best adapters become the run's."""
    if isinstance(saved, Watched):
        run.best = saved.best
        return saved.state
    return saved


def restored(run: Run, state: TrainState) -> TrainState:
    """The state with the best adapters, where patience is set."""
    if run.best is None:
        return state
    if run.setup.mesh is None:
        return state.replace(adapters=commit(jax.tree.map(jax.numpy.asarray, run.best)))  # type: ignore[attr-defined]
    return state.replace(adapters=laid_out(run.setup.mesh, run.best, run.setup.model.config))  # type: ignore[attr-defined]
