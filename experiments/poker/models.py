"""Models that ``evaluate`` is told by name: a directory of one, or what a stage of a pipeline left in its folder."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.command import load_config
from experiments.configdict import as_config, from_config
from experiments.poker.agent import AgentSettings, Player, open_player
from experiments.poker.ask import AskSettings, Scorer, tokens_of
from experiments.poker.contestants import player
from experiments.poker.files import fingerprint, stamp
from experiments.poker.measure import known_hands
from experiments.poker.pipeline_settings import LEARNED, PipelineExperiment
from experiments.settings import ModelSettings
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic, write_streamed
from lqlm.poker.arena.language import LanguageAgent, Score
from lqlm.poker.policy import Question, Shapes, score_questions

SETTINGS = "pipeline.json"
FORM = "NAME=PATH[,stage=sft][,config=FILE][,adapter=DIR][,template=compact][,chat=no]"


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """A model as the command line names it.

    Attributes:
        name: in tables.
        path: a directory of a model, or the folder of a pipeline.
        stage: of the pipeline: sft, reward_model, ppo, grpo or self_play.
        config: of the pipeline, where its folder does not hold its settings (it was killed before it wrote them).
        adapter: a PEFT directory over the model, such as one of self-play's league; with a pipeline's folder, in place
            of what the stage left.
        template: of the prompts that the model was trained on, with no pipeline to say it.
        chat: ``yes`` where it was trained on conversations, ``no`` on plain text.
    """

    name: str
    path: str
    stage: str = "sft"
    config: str = ""
    adapter: str = ""
    template: str = "compact"
    chat: str = "no"


def choice_of(text: str) -> ModelChoice:
    """The choice that an argument says.

    Raises:
        UserError: where it is not of the form.

    >>> choice_of("late=runs/poker_small,stage=ppo").stage
    'ppo'
    """
    first, *rest = text.split(",")
    pairs = [part.split("=", 1) for part in (first, *rest)]
    known = {field.name for field in dataclasses.fields(ModelChoice)} - {"name", "path"}
    if any(len(pair) != 2 or not all(pair) for pair in pairs) or {key for key, _ in pairs[1:]} - known:
        raise UserError(f"--models: {text!r} is not of the form {FORM}")
    found = ModelChoice(*pairs[0], **dict(pairs[1:]))
    if found.stage not in LEARNED or found.chat not in ("yes", "no"):
        raise UserError(f"--models: {text!r}: stage is one of {', '.join(LEARNED)}; chat is yes or no")
    return found


def open_model(choice: ModelChoice, rows: int) -> Player:
    """The model, loaded.

    Args:
        choice: which.
        rows: questions that are scored at once.

    Raises:
        UserError: when there is none.
    """
    folder = pathlib.Path(choice.path)
    if choice.config or (folder / SETTINGS).exists():
        settings = dataclasses.replace(_settings(choice), workdir=choice.path)
        shapes = dataclasses.replace(settings.evaluate.shapes, rows=rows)
        held = dataclasses.replace(settings, evaluate=dataclasses.replace(settings.evaluate, shapes=shapes))
        return player(held, choice.stage, choice.adapter)
    if (folder / "sft").is_dir():
        raise UserError(
            f"--models: {folder} is a pipeline's without {SETTINGS}; add config=FILE, the one it began with"
        )
    ask = from_config(AskSettings, {"template": choice.template, "chat": choice.chat == "yes"}, "--models")
    model = ModelSettings(source=choice.path, quantize=False)
    return open_player(AgentSettings(model, choice.adapter, ask, Shapes(rows=rows)))


def _settings(choice: ModelChoice) -> PipelineExperiment:
    if choice.config:
        return from_config(PipelineExperiment, load_config(choice.config))
    path = pathlib.Path(choice.path) / SETTINGS
    return from_config(PipelineExperiment, json.loads(path.read_text(encoding="utf-8")), str(path))


def keep_settings(settings: PipelineExperiment) -> None:
    """Write the settings of a pipeline into its folder, so that its models can be opened by that alone."""
    found = as_config(settings).to_dict()
    write_atomic(pathlib.Path(settings.workdir) / SETTINGS, json.dumps(found, indent=1) + "\n")


@dataclasses.dataclass(eq=False, repr=False)
class Counted:
    """A model's scores as an agent asks for them, and how many prompts and tokens it was asked.

    Attributes:
        scorer: of the model.
        prompts: asked so far.
        tokens: of these prompts.
    """

    scorer: Scorer
    prompts: int = 0
    tokens: int = 0

    def __repr__(self) -> str:
        return repr(self.scorer)

    def __call__(self, prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        """The scores, counted."""
        scorer = self.scorer
        questions = [scorer.question(prompt, several) for prompt, several in zip(prompts, answers, strict=True)]
        self.prompts, self.tokens = self.prompts + len(questions), self.tokens + sum(len(q.prompt) for q in questions)
        return score_questions(scorer.score, questions, scorer.shapes, scorer.pad_id)


def kept_predictions(test: pathlib.Path, path: pathlib.Path, contestant: Player) -> tuple[np.ndarray, np.ndarray]:
    """Of all decisions of a file of hands; kept in a file, since they take minutes."""
    digest = fingerprint([repr(contestant.scorer), contestant.settings.temperature, stamp(test)])
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["digest"]) == digest:
                return kept["probabilities"], kept["sizes"]
    probabilities, sizes = contestant.predictions(known_hands(test))
    arrays = {"digest": np.array(digest), "probabilities": probabilities, "sizes": sizes}
    write_streamed(path, functools.partial(_save, arrays))
    return probabilities, sizes


def _save(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def words_of(scorer: Scorer) -> Score:
    """A model's scores of plain words, such as those of Kuhn and Leduc, where a bet has no amount."""

    def score(prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        pairs = [
            [tokens_of(scorer.ask.record(prompt, text.strip(" .")), scorer.tokenizer) for text in several]
            for prompt, several in zip(prompts, answers, strict=True)
        ]
        questions = [Question(several[0][0], [answer for _, answer in several]) for several in pairs]
        return score_questions(scorer.score, questions, scorer.shapes, scorer.pad_id)

    return score


def agent_of(opened: Player) -> LanguageAgent:
    """A model at many tables at once: its own batches, and its prompts counted."""
    return dataclasses.replace(opened.agent(), score=Counted(opened.scorer))
