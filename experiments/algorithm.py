"""What an algorithm gives to the loop, and what the loop needs of a run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from experiments.settings import Experiment
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import Panel
from lqlm.io.load import LoadedModel
from lqlm.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, ready to begin; each algorithm adds what it needs.

    Attributes:
        settings: of the run.
        model: its base, tokenizer and checksum.
        state: before the first step.
        initial: the adapters before the first step, where they changed the base; else None.
        mesh: of several devices, or None.
        fingerprint: of the data, so that a run goes on with the data that it was begun with; empty: not known.
    """

    settings: Any
    model: LoadedModel
    state: TrainState
    initial: PyTree = None
    mesh: Mesh | None = None
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """The functions and names that differ between algorithms; all else is shared.

    Attributes:
        settings: the dataclass that describes a run.
        build: settings -> Setup; whatever can be wrong with them is found here, the cheap things first.
        one_step: (run, state, step) -> (state, metrics); a function of (state, step) alone, and of
            ``run.history["data"]``, so that a resumed run repeats it.
        evaluate: (run, state, step) -> metrics named ``eval/...``; step 0 is before the first.
        save: (run, state): writes the result of the run, when it is over.
        watched: the metrics of which the first that a run has decides which adapters are the best, and whether more
            of it is better.
        shown: label -> metric, of the progress bar.
        speed: the phase whose tokens per second are shown there.
        panels: of the learning curves.
    """

    settings: type[Experiment]
    build: Callable[[Any], Setup]
    one_step: Callable[[Any, TrainState, int], tuple[TrainState, dict[str, Any]]]
    evaluate: Callable[[Any, TrainState, int], dict[str, float]]
    save: Callable[[Any, TrainState], None]
    watched: tuple[tuple[str, ...], bool]
    shown: Mapping[str, str]
    speed: str
    panels: tuple[Panel, ...]

    def watches(self, metrics: Mapping[str, Any]) -> str | None:
        """The name of the metric that decides, of an evaluation or of a step with one."""
        return next((name for name in self.watched[0] if name in metrics), None)
