"""What the stages of the pipeline left, ready to play."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Iterable, Sequence

import jax

from experiments.poker import tuning
from experiments.poker.agent import AgentSettings, Player, open_player
from experiments.poker.ask import Scorer
from experiments.poker.files import fingerprint
from experiments.poker.pipeline_settings import PipelineExperiment
from lqlm.io.reward_model import load_reward_model
from lqlm.models.heads import completion_scores
from lqlm.poker.policy import Question

BEST = 1e-4
"""Temperature at which the answer of the highest score is taken; scores differ by far more."""


def player(settings: PipelineExperiment, stage: str = "sft", adapter: str = "") -> Player:
    """What a stage left: a policy, or of ``reward_model`` a player who takes the legal answer of the highest score.

    Args:
        settings: of the pipeline.
        stage: which.
        adapter: a PEFT directory in place of the one that the stage left, such as a policy of its league.
    """
    if stage == "reward_model" and not adapter:
        return _judging(settings)
    model, adapter = tuning.base(settings), adapter or tuning.start(settings, stage)
    if not adapter:  # the model that SFT trained whole
        model = dataclasses.replace(model, quantize=False)
    return open_player(_agent(settings, model, adapter))


def _agent(settings: PipelineExperiment, model: tuning.ModelSettings, adapter: str) -> AgentSettings:
    held = settings.evaluate
    return AgentSettings(
        model=model,
        adapter=adapter,
        ask=settings.ask,
        shapes=held.shapes,
        temperature=held.temperature,
        chunk=settings.sft.run.logprob_chunk,
    )


@dataclasses.dataclass(frozen=True, repr=False)
class JudgingScorer(Scorer):
    """Scores of a reward model in place of log-probabilities."""

    def question(self, prompt: str, answers: Iterable[str]) -> Question:
        """The tokens as its training had them: an answer ends with its end token, whatever a template writes after."""
        found = super().question(prompt, answers)
        return Question(found.prompt, [_ended(answer, self.tokenizer.eos_ids) for answer in found.answers])


def _ended(tokens: Sequence[int], eos_ids: Sequence[int]) -> Sequence[int]:
    ends = [at for at, token in enumerate(tokens) if token in eos_ids]
    return tokens[: ends[-1] + 1] if ends else tokens


def _judging(settings: PipelineExperiment) -> Player:
    folder = settings.folder("reward_model") / "adapter"
    plain = open_player(dataclasses.replace(_agent(settings, tuning.base(settings), ""), temperature=BEST, merge=False))
    adapters, _ = load_reward_model(folder, plain.model.config)
    score = functools.partial(jax.jit(functools.partial(completion_scores, cfg=plain.model.config)), plain.policy[0])
    fields = {field.name: getattr(plain.scorer, field.name) for field in dataclasses.fields(Scorer)}
    fields |= {"score": functools.partial(score, adapters), "name": fingerprint([plain.scorer.name, *_digests(folder)])}
    return dataclasses.replace(plain, scorer=JudgingScorer(**fields))


def _digests(folder: pathlib.Path) -> list[int]:
    return [zlib.crc32(path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]
