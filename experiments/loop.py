"""The loop over steps: log, evaluate, checkpoint; go on where a killed run stopped."""

import dataclasses
import textwrap
import time
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from experiments import best, hosts
from experiments.run import Run, usage
from experiments.settings import scheduled
from lqlm.algorithms.step import TrainState
from lqlm.errors import UserError
from lqlm.io.monitor import Phase
from lqlm.optim.chains import make_schedule
from lqlm.sharding import whole


def train(run: Run) -> TrainState:
    """All steps that are not done yet; returns the final state, or where patience is set the best one."""
    settings = run.setup.settings.run
    state, first = resume(run)
    silent = not hosts.first()
    with tqdm(total=settings.steps, initial=first, unit="step", dynamic_ncols=True, disable=silent) as bar:
        for step in range(first, settings.steps):
            if best.exhausted(run):
                say(f"step {step}: no better since step {best.best_step(run)}; stopped")
                break
            run.counter.mark()
            started = time.perf_counter()
            state, metrics = run.algorithm.one_step(run, state, step)
            done = step + 1
            metrics |= {"step_time": time.perf_counter() - started, "learning_rate": learning_rate(run, done)}
            if done == settings.steps or (settings.eval_every and done % settings.eval_every == 0):
                metrics |= evaluate(run, state, done)
                say(_news(run, done, metrics))
            metrics |= run.timers.step_metrics() | {"compilations": run.counter.since_mark}
            run.writer.write(done, metrics)
            bar.set_postfix(_postfix(run, metrics), refresh=False)
            bar.update()
            check_finite(run, state, done)
            if done == settings.steps or done % settings.checkpoint_every == 0 or best.exhausted(run):
                save(run, done, state)
            run.compiled_late += run.counter.since_mark if step > first else 0
    return best.restored(run, state)


def learning_rate(run: Run, done: int) -> float:
    """That of the last update of so many steps."""
    settings = run.setup.settings
    each = getattr(settings.run, "updates", 1)
    return float(make_schedule(scheduled(settings, settings.run.steps * each))(jnp.int32(done * each - 1)))


def say(text: str) -> None:
    """A line above the progress bar, said once whatever the number of processes."""
    if hosts.first():
        tqdm.write(text)


def resume(run: Run) -> tuple[TrainState, int]:
    """The newest checkpoint's state and step, or the initial state, evaluated and saved as step 0."""
    adapters = jax.device_get(whole(run.setup.state.adapters))
    found = run.checkpoints.restore(best.saved_form(run, run.setup.state, adapters))
    if found is not None:
        step, saved, extra = found
        if step > run.setup.settings.run.steps:
            raise UserError(f"{run.workdir.path}: the run is at step {step} already; set run.steps to that or more")
        _check_base(run, extra["base"])
        _check_data(run, extra["base"])
        run.history = extra["history"]
        run.earlier = extra["usage"]
        run.timers.totals = {name: Phase(*lap) for name, lap in extra["phases"].items()}
        run.writer.truncate(step + 1)
        return best.taken_apart(run, saved), step
    run.writer.truncate(0)
    metrics = evaluate(run, run.setup.state, 0)
    run.writer.write(0, metrics | run.timers.step_metrics())
    save(run, 0, run.setup.state)
    return run.setup.state, 0


def evaluate(run: Run, state: TrainState, step: int) -> dict[str, float]:
    """Held-out metrics, remembered in the run's history."""
    with run.timers.phase("eval"):
        found = run.algorithm.evaluate(run, state, step)
    run.history.setdefault("eval", {})[str(step)] = found
    best.remember(run, state, step)
    return found


def save(run: Run, step: int, state: TrainState) -> None:
    """A checkpoint: the state, and all that makes the same command go on from here."""
    phases = {name: dataclasses.astuple(lap) for name, lap in run.timers.totals.items()}
    extra = {"base": _base(run), "history": run.history, "phases": phases, "usage": usage(run)}
    with run.timers.phase("checkpoint"):
        run.checkpoints.save(step, best.saved_form(run, state, run.best), extra)


def _base(run: Run) -> dict[str, str]:
    """What stands in a checkpoint for base and data, which it never holds."""
    return {
        "source": run.setup.model.source,
        "sha256": run.setup.model.checksum,
        "data": run.setup.fingerprint,
    }


def _check_base(run: Run, saved: dict[str, str]) -> None:
    if saved["sha256"] != run.setup.model.checksum:
        raise UserError(
            f"{run.checkpoints.directory}: the run was begun on a base of sha256 {saved['sha256'][:12]}..., "
            f"{run.setup.model.source} now has {run.setup.model.checksum[:12]}...; give it the same weights"
        )


def _check_data(run: Run, saved: dict[str, str]) -> None:
    if saved.get("data", "") != run.setup.fingerprint:
        raise UserError(
            f"{run.checkpoints.directory}: the run was begun on other data; give it the same, or set --config.workdir "
            "to a new folder"
        )


def check_finite(run: Run, state: TrainState, step: int) -> None:
    """Stop once too many updates in a row had to be skipped; the checkpoints before stay."""
    skipped, limit = int(state.skipped), run.setup.settings.run.max_skipped
    if skipped and skipped >= limit:
        raise UserError(
            f"step {step}: {skipped} updates in a row had a non-finite loss or gradient and were skipped; begin a run "
            "with a lower optim.learning_rate in another workdir, or raise run.max_skipped "
            f"({run.checkpoints.directory} keeps the last checkpoint)"
        )


def _news(run: Run, step: int, metrics: dict[str, Any]) -> str:
    found = {name.removeprefix("eval/"): value for name, value in metrics.items() if name.startswith("eval/")}
    told = f"step {step}: held-out " + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    if not run.shown:
        return told
    prompt, completion = (textwrap.shorten(run.shown[key], 60, placeholder="...") for key in ("prompt", "completion"))
    return f"{told}; {prompt!r} -> {completion!r}"


def _postfix(run: Run, metrics: dict[str, Any]) -> dict[str, str]:
    algorithm = run.algorithm
    seconds = sum(v for k, v in metrics.items() if k.startswith("seconds/"))
    shown = {label: f"{metrics[name]:.3f}" for label, name in algorithm.shown.items() if name in metrics}
    shown["s"] = f"{seconds:.1f}"
    shown["tok/s"] = f"{metrics.get(f'tokens_per_second/{algorithm.speed}', 0):.0f}"
    if name := algorithm.watches(metrics):
        shown["held-out"] = f"{metrics[name]:.3f}"
    return shown
