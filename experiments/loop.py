"""The loop over steps: log, evaluate, checkpoint; go on where a killed run stopped."""

import dataclasses
import textwrap
from typing import Any

from tqdm import tqdm

from experiments.evaluate import accuracy
from experiments.run import Run, usage
from experiments.step import one_step
from lqlm.algorithms.step import TrainState
from lqlm.errors import UserError
from lqlm.io.monitor import Phase


def train(run: Run) -> TrainState:
    """All steps that are not done yet; returns the final state."""
    settings = run.setup.settings.run
    state, first = resume(run)
    with tqdm(total=settings.steps, initial=first, unit="step", dynamic_ncols=True) as bar:
        for step in range(first, settings.steps):
            run.counter.mark()
            state, metrics = one_step(run, state, step)
            done = step + 1
            if done == settings.steps or (settings.eval_every and done % settings.eval_every == 0):
                metrics |= evaluate(run, state, done)
                tqdm.write(_news(run, done, metrics["eval/accuracy"]))
            metrics |= run.timers.step_metrics() | {"compilations": run.counter.since_mark}
            run.writer.write(done, metrics)
            bar.set_postfix(_postfix(metrics), refresh=False)
            bar.update()
            check_finite(run, state, done)
            if done == settings.steps or done % settings.checkpoint_every == 0:
                save(run, done, state)
            run.compiled_late += run.counter.since_mark if step > first else 0
    return state


def resume(run: Run) -> tuple[TrainState, int]:
    """The newest checkpoint's state and step, or the initial state, evaluated and saved as step 0."""
    found = run.checkpoints.restore(run.setup.state)
    if found is not None:
        step, state, extra = found
        if step > run.setup.settings.run.steps:
            raise UserError(f"{run.workdir.path}: the run is at step {step} already; set run.steps to that or more")
        _check_base(run, extra["base"])
        run.history = extra["history"]
        run.earlier = extra["usage"]
        run.timers.totals = {name: Phase(*lap) for name, lap in extra["phases"].items()}
        run.writer.truncate(step + 1)
        return state, step
    run.writer.truncate(0)
    metrics = evaluate(run, run.setup.state, 0)
    run.writer.write(0, metrics | run.timers.step_metrics())
    save(run, 0, run.setup.state)
    return run.setup.state, 0


def evaluate(run: Run, state: TrainState, step: int) -> dict[str, float]:
    """Held-out accuracy, remembered in the run's history."""
    with run.timers.phase("eval"):
        found = accuracy(run.setup, state.adapters)
    run.history.setdefault("eval", {})[str(step)] = found
    return found


def save(run: Run, step: int, state: TrainState) -> None:
    """A checkpoint: the state, and all that makes the same command go on from here."""
    phases = {name: dataclasses.astuple(lap) for name, lap in run.timers.totals.items()}
    extra = {"base": _base(run), "history": run.history, "phases": phases, "usage": usage(run)}
    with run.timers.phase("checkpoint"):
        run.checkpoints.save(step, state, extra)


def _base(run: Run) -> dict[str, str]:
    """What stands for the base in a checkpoint, which never holds it."""
    return {"source": run.setup.model.source, "sha256": run.setup.model.checksum}


def _check_base(run: Run, saved: dict[str, str]) -> None:
    if saved["sha256"] != run.setup.model.checksum:
        raise UserError(
            f"{run.checkpoints.directory}: the run was begun on a base of sha256 {saved['sha256'][:12]}..., "
            f"{run.setup.model.source} now has {run.setup.model.checksum[:12]}...; give it the same weights"
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


def _news(run: Run, step: int, accuracy: float) -> str:
    prompt, completion = (textwrap.shorten(run.shown[key], 60, placeholder="...") for key in ("prompt", "completion"))
    return f"step {step}: held-out accuracy {accuracy:.3f}; {prompt!r} -> {completion!r}"


def _postfix(metrics: dict[str, Any]) -> dict[str, str]:
    seconds = sum(v for k, v in metrics.items() if k.startswith("seconds/"))
    shown = {"reward": f"{metrics['reward']:.3f}", "kl": f"{metrics['kl']:.3f}", "s": f"{seconds:.1f}"}
    shown["tok/s"] = f"{metrics.get('tokens_per_second/rollout', 0):.0f}"
    if "eval/accuracy" in metrics:
        shown["held-out"] = f"{metrics['eval/accuracy']:.3f}"
    return shown
