"""From settings to objects: the model as a player, the policies of the league, and the compiled functions of a step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import trained
from experiments.algorithm import Setup
from experiments.keys import keys
from experiments.poker.ask import Scorer
from experiments.poker.files import fingerprint
from experiments.poker.mirror import LOSSES, make_score
from experiments.poker.self_play_settings import SelfPlayExperiment
from experiments.settings import scheduled
from lqlm.algorithms.mirror_objective import MirrorBatch, mirror_objective
from lqlm.algorithms.step import Metrics, TrainState, init_state, make_update
from lqlm.io.load import LoadedModel
from lqlm.optim.chains import make_optimizer
from lqlm.poker.arena.actions import BlindChoices
from lqlm.poker.arena.language import LanguageAgent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.policy import Shapes, answer_logprobs
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device."""

    update: Callable[..., tuple[TrainState, Metrics]]
    scores: Callable[[PyTree, PyTree, MirrorBatch], Array]  # (base, adapters, batch) -> [B, A]
    answers: Callable[..., Array]  # (base, adapters, the arrays of questions) -> [B, A], at the table


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlaySetup(Setup):
    """A run of self-play, ready to begin.

    Attributes:
        rules: of the table.
        scorer: of answers, whose ``score`` is that of the policy that training begins with.
        first: the adapters that training begins with.
        functions: what runs on the device.
        members: step -> adapters of the league's policies that are in memory.
    """

    settings: SelfPlayExperiment
    rules: Rules
    scorer: Scorer
    first: PyTree
    functions: Functions
    members: dict[int, PyTree] = dataclasses.field(default_factory=dict)

    @property
    def shapes(self) -> Shapes:
        """What the questions of an update are padded to."""
        return dataclasses.replace(self.settings.shapes, rows=self.settings.run.rows)

    def agent(self, adapters: PyTree) -> LanguageAgent:
        """The policy of some adapters at the table."""
        ask, score = self.settings.ask, functools.partial(self.functions.answers, self.model.base, adapters)
        scorer = dataclasses.replace(self.scorer, score=score)
        return LanguageAgent(scorer, BlindChoices(ask.choices), ask.view, ask.prompt)


def build(settings: SelfPlayExperiment) -> SelfPlaySetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps * settings.run.updates))
    rules = Rules(game=settings.game)
    initial = keys(settings.seed)[0]
    model = trained.load(settings.model, settings.adapter)
    base, adapters = trained.begin(initial, model.base, settings)
    adapters = trained.started(adapters, settings, model.config)
    model = dataclasses.replace(model, base=base)
    functions = _functions(settings, model, optimizer)
    first = jax.tree.map(jnp.copy, adapters)  # the state's own are given away at the first update
    return SelfPlaySetup(
        settings=settings,
        model=model,
        rules=rules,
        scorer=_scorer(settings, model),
        first=first,
        functions=functions,
        state=init_state(adapters, optimizer),
        fingerprint=fingerprint([settings.table, settings.ask, settings.league]),
    )


def _functions(settings: SelfPlayExperiment, model: LoadedModel, optimizer: Any) -> Functions:
    score = make_score(settings, model)
    update = make_update(
        mirror_objective(score, settings.mirror, LOSSES[settings.loss]),
        optimizer,
        micro_batches=settings.run.micro_batches,
    )
    return Functions(
        jax.jit(update, donate_argnums=0),
        jax.jit(lambda base, adapters, batch: score(adapters, base, batch, None)),
        jax.jit(functools.partial(answer_logprobs, cfg=model.config, chunk=settings.run.logprob_chunk)),
    )


def _scorer(settings: SelfPlayExperiment, model: LoadedModel) -> Scorer:
    def nothing(*_: Any) -> Array:
        raise AssertionError("a policy of self-play scores with its own adapters")

    return Scorer(
        tokenizer=model.tokenizer,
        score=nothing,
        ask=settings.ask,
        shapes=settings.shapes,
        pad_id=model.tokenizer.pad_id,
        limit=model.config.max_positions,
        name="self-play",
    )
