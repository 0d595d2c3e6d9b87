"""From settings to objects: the data, the model, the optimizer, and the compiled functions of a step."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from experiments import trained
from experiments.algorithm import Setup
from experiments.decoding import make_sampler
from experiments.keys import keys
from experiments.mesh import beside, check_rows, compiled, compiled_update, laid_out, make_mesh
from experiments.settings import ModelSettings, scheduled
from experiments.sft.data import Data, Records, prepare, read_records
from experiments.sft.scratch import make_model
from experiments.sft.settings import SFTExperiment
from lqlm.algorithms.sft import Score, SFTBatch, dft_loss, nll_loss, score_sums, sft_objective
from lqlm.algorithms.step import Metrics, TrainState, init_state, make_update
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.generation.rollout import check_context, round_up
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.load import LoadedModel
from lqlm.models.targets import target_scores
from lqlm.optim.chains import make_optimizer
from lqlm.sharding import replicated
from lqlm.tasks.instructions import Prompt, prompts
from lqlm.types import PyTree

_log = logging.getLogger("lqlm")
LOSSES = {"nll": nll_loss, "dft": dft_loss}
PROMPT_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the device; each compiles once."""

    update: Callable[..., tuple[TrainState, Metrics]]
    sums: Callable[[PyTree, PyTree, SFTBatch], Metrics]  # (base, adapters, batch) -> sums over its targets
    policy: trained.Policy  # (base, adapters) -> what to decode with
    greedy: Callable[..., Completions]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSetup(Setup):
    """A run of supervised fine-tuning, ready to begin."""

    settings: SFTExperiment
    data: Data
    prompts: list[Prompt]  # held out, to be completed in evaluations
    prompt_length: int
    functions: Functions


def build(settings: SFTExperiment) -> SFTSetup:
    """All that a run needs; whatever can be wrong with the settings is found here, the cheap things first."""
    optimizer = make_optimizer(scheduled(settings, settings.run.steps))
    mesh = make_mesh(settings.mesh)
    check_rows(mesh, run_rows=settings.run.rows // settings.run.micro_batches)
    found = read_records(settings.data, settings.seed)
    initial = keys(settings.seed)[0]
    with beside(mesh):
        model, base, adapters = _model(settings, found, initial)
    _check_length(settings, model)
    data = prepare(settings, found, model.tokenizer, model.tokenizer.pad_id)
    if data.skipped:
        _log.warning(
            "nothing is learned from some records: %s", ", ".join(f"{r}: {n}" for r, n in data.skipped.items())
        )
    asked, longest = _prompts(settings, found, model)
    with beside(mesh):
        kept, state = trained.kept(adapters, settings.adapter), init_state(adapters, optimizer)
    model, state = _on_devices(model, base, state, mesh)
    return SFTSetup(
        settings=settings,
        model=model,
        data=data,
        fingerprint=data.feed.fingerprint,
        prompts=asked,
        prompt_length=longest,
        functions=build_functions(settings, model, optimizer, mesh, state),
        initial=kept,
        mesh=mesh,
        state=state,
    )


def _on_devices(
    model: LoadedModel, base: PyTree, state: TrainState, mesh: Mesh | None
) -> tuple[LoadedModel, TrainState]:
    """Base and state where the mesh has them."""
    base = laid_out(mesh, base, model.config)
    return dataclasses.replace(model, base=base), laid_out(mesh, state, model.config)


def _model(settings: SFTExperiment, found: Records, key: jax.Array) -> tuple[LoadedModel, PyTree, PyTree]:
    """The model, its base, and what is trained."""
    if isinstance(settings.model, ModelSettings):
        model = trained.load(settings.model, settings.adapter)
    else:
        model = make_model(settings, found, key)
    base, adapters = trained.begin(key, model.base, settings)
    return model, base, trained.started(adapters, settings, model.config)


def _check_length(settings: SFTExperiment, model: LoadedModel) -> None:
    length, most = max(settings.run.length, settings.text.max_length), model.config.max_positions
    if length > most:
        raise UserError(f"rows of {length} tokens exceed the model's {most} positions; lower text.max_length")


def _prompts(settings: SFTExperiment, found: Records, model: LoadedModel) -> tuple[list[Prompt], int]:
    """Held-out prompts to complete, and the length that they are padded to."""
    asked: list[Prompt] = []
    for where, fields in found.heldout if settings.run.generate else ():
        asked += prompts(where, fields, model.tokenizer, settings.text)
        for prompt in asked:
            check_context(len(prompt.tokens), settings.run.new_tokens, model.config.max_positions, where)
        if len(asked) >= settings.run.generate:
            break
    asked = asked[: settings.run.generate]
    return asked, round_up(max((len(prompt.tokens) for prompt in asked), default=1), PROMPT_MULTIPLE)


def build_functions(
    settings: SFTExperiment,
    model: LoadedModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    state: TrainState,
) -> Functions:
    """Jit the pure functions with everything static bound."""
    scorer = make_scorer(settings, model)
    objective = sft_objective(scorer, LOSSES[settings.run.loss])
    update = make_update(objective, optimizer, micro_batches=settings.run.micro_batches)
    sums = lambda base, adapters, batch: score_sums(scorer(adapters, base, batch, None), batch)  # noqa: E731
    sampling = SamplingConfig(max_new_tokens=settings.run.new_tokens, temperature=0.0)
    return Functions(
        compiled_update(update, mesh, state, model.config),
        compiled(sums, mesh, replicated),
        trained.policy(settings.adapter, settings.run.merge, mesh, model.config, rows=settings.run.eval_batch),
        make_sampler(model, sampling, 1, mesh),
    )


def make_scorer(settings: SFTExperiment, model: LoadedModel) -> Score:
    """``(adapters, base, batch, dropout key or None) -> TokenScores``; with a key, dropout is on."""
    run, dropout = settings.run, trained.has_dropout(settings.adapter)

    def score(adapters: PyTree, base: PyTree, batch: SFTBatch, key: Any) -> Any:
        return target_scores(
            base,
            adapters,
            batch.tokens_BT,
            batch.segments_BT,
            batch.targets_BT,
            model.config,
            chunk=run.logprob_chunk,
            dropout_key=key if dropout else None,
            remat=run.remat,
        )

    return score
