"""From settings to objects: the game, the model, what it is asked, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from experiments import trained
from experiments.algorithm import Setup
from experiments.keys import keys
from experiments.poker.files import fingerprint
from experiments.poker.mirror import LOSSES, make_score, without_values
from experiments.poker.small_games_player import questions, without_rules
from experiments.poker.small_games_settings import SmallGamesExperiment
from experiments.settings import ModelSettings, scheduled
from experiments.sft.data import Records
from experiments.sft.scratch import make_model
from experiments.sft.settings import SFTExperiment
from lqlm.adapters.configs import FullConfig
from lqlm.algorithms.mirror_objective import mirror_objective
from lqlm.algorithms.step import Metrics, TrainState, init_state, make_update
from lqlm.errors import UserError
from lqlm.io.datasets import Record
from lqlm.io.load import LoadedModel
from lqlm.optim.chains import make_optimizer
from lqlm.poker.arena.game_tree import GameTree, game_tree, table_of
from lqlm.poker.arena.language import small_game_answers, small_game_prompt
from lqlm.poker.arena.small_bots import small_leaks
from lqlm.poker.arena.small_games import cfr_plus
from lqlm.poker.arena.values import best_gain
from lqlm.poker.policy import Batch, Shapes, pad_questions
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Opponent:
    """Whom the model is measured against.

    Attributes:
        table_SA: its policy.
        most: what the best opponent wins from it, in antes per hand.
    """

    table_SA: np.ndarray
    most: float


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once."""

    update: Callable[..., tuple[TrainState, Metrics]]
    scores: Callable[[PyTree, PyTree], Array]  # (base, adapters) -> [S, A], of all answers of the game


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallGamesSetup(Setup):
    """A run of self-play in a small game, ready to begin."""

    settings: SmallGamesExperiment
    tree: GameTree
    asked: Batch  # row s is state s of the tree
    opponents: Mapping[str, Opponent]  # cfr+ is the first
    functions: Functions

    @property
    def rows(self) -> int:
        """Prompts of an update."""
        return self.settings.run.rows or len(self.tree.states)


def build(settings: SmallGamesExperiment) -> SmallGamesSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps * settings.run.updates))
    tree = game_tree(settings.game)
    _check_rows(settings, len(tree.states))
    initial = keys(settings.seed)[0]
    model = _model(settings, tree, initial)
    asked = questions(tree.states, settings.rules, model.tokenizer, model.config.max_positions)
    base, adapters = trained.begin(initial, model.base, settings)
    adapters = trained.started(adapters, settings, model.config)
    kept, state = trained.kept(adapters, settings.adapter), init_state(adapters, optimizer)
    batch = pad_questions(asked, Shapes(len(asked), 8, 1, 1), model.tokenizer.pad_id)
    score = make_score(settings, model)
    objective = mirror_objective(score, settings.mirror, LOSSES[settings.loss])
    update = make_update(objective, optimizer, micro_batches=settings.run.micro_batches)
    every = without_values(batch)
    compiled = jax.jit(lambda base, adapters, batch: score(adapters, base, batch, None))
    return SmallGamesSetup(
        settings=settings,
        model=dataclasses.replace(model, base=base),
        tree=tree,
        asked=batch,
        opponents=opponents(settings, tree),
        fingerprint=fingerprint([settings.game, [list(map(list, question)) for question in asked]]),
        functions=Functions(
            jax.jit(update, donate_argnums=0),
            lambda base, adapters: compiled(base, adapters, every),
        ),
        initial=kept,
        state=state,
    )


def _check_rows(settings: SmallGamesExperiment, states: int) -> None:
    rows, parts = settings.run.rows or states, settings.run.micro_batches
    if rows > states:
        raise UserError(f"run.rows is {rows}, and {settings.game} has {states} states; give that many at most, or 0")
    if rows % parts:
        raise UserError(f"run.micro_batches {parts} does not divide the {rows} prompts of an update")


def _model(settings: SmallGamesExperiment, tree: GameTree, key: jax.Array) -> LoadedModel:
    """A model that is loaded, or one with random weights and a tokenizer trained on the prompts of the game."""
    if isinstance(settings.model, ModelSettings):
        return trained.load(settings.model, settings.adapter)
    shape, adapter = settings.model, FullConfig(dtype=settings.model.dtype)
    found = SFTExperiment(workdir=settings.workdir, seed=settings.seed, model=shape, adapter=adapter)
    return make_model(found, Records(list(_texts(settings, tree)), []), key)


def _texts(settings: SmallGamesExperiment, tree: GameTree) -> Iterator[Record]:
    """Records whose words the tokenizer learns."""
    for state in tree.states:
        prompt = small_game_prompt(state)
        shown = prompt if settings.rules else without_rules(prompt)
        yield Record(state.key, {"prompt": shown, "completion": "".join(small_game_answers(state))})


def opponents(settings: SmallGamesExperiment, tree: GameTree) -> dict[str, Opponent]:
    """CFR+ and the bots with known leaks, with what can be won from each."""
    sound = cfr_plus(settings.game, settings.run.reference)
    tables = {name: table_of(tree, policy) for name, policy in {"cfr+": sound, **small_leaks(sound)}.items()}
    return {name: Opponent(table, best_gain(tree, table)) for name, table in tables.items()}
