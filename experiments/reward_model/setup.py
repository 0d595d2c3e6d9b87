"""From settings to objects: the data, the model with its head, and the compiled functions of a step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import trained
from experiments.keys import keys
from experiments.mesh import compiled, compiled_update
from experiments.pairs.data import Data
from experiments.pairs.setup import PairSetup, begin, initial_state
from experiments.reward_model.judges import pair_judge, single_judge
from experiments.reward_model.settings import RewardModelExperiment
from experiments.settings import scheduled
from lqlm.adapters.configs import AdapterConfig
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.reward_model import reward_model_objective
from lqlm.algorithms.scored import ScoredBatch, scored_objective
from lqlm.algorithms.step import Metrics, TrainState, make_update
from lqlm.errors import UserError
from lqlm.io.load import LoadedModel
from lqlm.io.peft import load_peft
from lqlm.io.reward_model import is_reward_model, load_reward_model
from lqlm.models.config import ModelConfig
from lqlm.models.heads import completion_scores, init_scalar_head
from lqlm.optim.chains import make_optimizer
from lqlm.sharding import replicated
from lqlm.tasks.scored import ScoredConfig
from lqlm.types import Array, Key, PyTree

Batch = PairBatch | ScoredBatch


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once."""

    update: Callable[..., tuple[TrainState, Metrics]]
    score: Callable[[PyTree, PyTree, Batch], Array]  # (base, adapters, batch) -> [B, G]
    judge: Callable[[Array, Array], Metrics]  # (scores [N, G], margins or targets [N]) -> held-out metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSetup(PairSetup):
    """A run of a reward model, ready to begin."""

    settings: RewardModelExperiment
    functions: Functions


def build(settings: RewardModelExperiment) -> RewardModelSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps))
    adapters_key, head_key = jax.random.split(keys(settings.seed)[0])
    begun = begin(settings, adapters_key, adapters_of)
    check_labels(settings, begun.data)
    head = begin_head(settings, begun.model.config, head_key)
    tree = {**begun.adapters, "score": head}
    initial = trained.kept(begun.adapters, settings.adapter)
    state, scorer = initial_state(begun, tree, optimizer), make_scorer(settings, begun.model)
    single = isinstance(settings.text, ScoredConfig)
    objective = (scored_objective if single else reward_model_objective)(scorer, settings.reward)
    update = make_update(objective, optimizer, micro_batches=settings.run.micro_batches)
    return RewardModelSetup(
        settings=settings,
        model=begun.model,
        data=begun.data,
        fingerprint=begun.data.fingerprint,
        functions=Functions(
            compiled_update(update, begun.mesh, state, begun.model.config),
            compiled_score(scorer, begun.mesh),
            jax.jit((single_judge if single else pair_judge)(settings.reward, settings.bins)),
        ),
        initial=initial,
        mesh=begun.mesh,
        state=state,
    )


def adapters_of(directory: str, cfg: ModelConfig) -> tuple[PyTree, AdapterConfig]:
    """The adapters of a policy, or of another reward model without its head."""
    if not is_reward_model(directory):
        return load_peft(directory, cfg)
    tree, kind = load_reward_model(directory, cfg)
    return {name: part for name, part in tree.items() if name != "score"}, kind


def begin_head(settings: RewardModelExperiment, cfg: ModelConfig, key: Key) -> PyTree:
    """A new head, or that of the reward model which training goes on from; the key is consumed."""
    if settings.start and is_reward_model(settings.start):
        return load_reward_model(settings.start, cfg)[0]["score"]
    return jax.tree.map(lambda x: settings.head * x, init_scalar_head(key, cfg.width))


def check_labels(settings: RewardModelExperiment, data: Data) -> None:
    """Refuse scores that are no probabilities where they are taken for labels.

    Raises:
        UserError: naming the first of them.
    """
    if not isinstance(settings.text, ScoredConfig) or settings.reward.loss != "classification":
        return
    for row in [*data.train, *data.heldout]:
        if not 0.0 <= row.score <= 1.0:
            raise UserError(
                f"{row.texts[0][-40:]!r} has the score {row.score:g}, and classification takes labels from 0 to 1; "
                "mend the data, or set reward.loss to regression"
            )


def make_scorer(settings: RewardModelExperiment, model: LoadedModel) -> Callable[..., Array]:
    """``(adapters, base, batch, dropout key or None) -> [B, G]``; a prompt is computed once for both completions."""
    dropout = trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: Batch, key: Any) -> Array:
        return completion_scores(
            base,
            without_bias(adapters),
            batch.prompts_BP,
            batch.prompt_mask_BP,
            batch.completions_BGC,
            batch.completion_mask_BGC,
            model.config,
            dropout_key=key if dropout else None,
            remat=settings.run.remat,
        )

    return score


def without_bias(adapters: PyTree) -> PyTree:
    """The tree whose head's bias is not trained: classifiers of transformers, as which it is written, have none."""
    head = adapters["score"]
    return {**adapters, "score": {**head, "bias": jax.lax.stop_gradient(head["bias"])}}


def compiled_score(scorer: Callable[..., Array], mesh: Mesh | None) -> Callable[[PyTree, PyTree, Batch], Array]:
    """``(base, adapters, batch) -> [B, G]``; on a mesh every process gets all of it."""
    return compiled(lambda base, adapters, batch: scorer(adapters, base, batch, None), mesh, replicated)
