"""Model, data and adapters of a run on pairs."""

import dataclasses
from typing import NamedTuple

import optax
from jax.sharding import Mesh

from experiments import trained
from experiments.algorithm import Setup
from experiments.mesh import beside, check_rows, laid_out, make_mesh
from experiments.pairs.data import Data, found_records, heldout_records, prepare
from experiments.pairs.settings import PairExperiment
from lqlm.algorithms.step import TrainState, init_state
from lqlm.io.load import LoadedModel
from lqlm.io.peft import load_peft
from lqlm.tasks.scored import ScoredConfig
from lqlm.types import Key, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSetup(Setup):
    """A run on pairs, ready to begin."""

    data: Data


class Begun(NamedTuple):
    """What a run on pairs begins with, before anything is compiled."""

    mesh: Mesh | None
    model: LoadedModel
    data: Data
    adapters: PyTree


def begin(settings: PairExperiment, key: Key, load: trained.Load = load_peft) -> Begun:
    """Whatever can be wrong with the settings is found here, the cheap things first; the key is consumed.

    Args:
        settings: of the run.
        key: of new adapters.
        load: reads those of ``settings.start``.
    """
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_pairs=settings.run.pairs // settings.run.micro_batches)
    found, apart = found_records(settings.data, isinstance(settings.text, ScoredConfig)), heldout_records(settings.data)
    with beside(mesh):
        model = trained.load(settings.model, settings.adapter)
        data = prepare(settings, found, model, apart)
        base, adapters = trained.begin(key, model.base, settings)
        adapters = trained.started(adapters, settings, model.config, load)
    model = dataclasses.replace(model, base=laid_out(mesh, base, model.config))
    return Begun(mesh, model, data, adapters)


def initial_state(begun: Begun, tree: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, where the mesh has it.

    Args:
        begun: of the run.
        tree: what is trained.
        optimizer: of the run.
    """
    with beside(begun.mesh):
        state = init_state(tree, optimizer)
    return laid_out(begun.mesh, state, begun.model.config)
