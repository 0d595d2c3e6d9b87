"""Each stage as an experiment of its own, whose results lie in a folder of the pipeline's."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiments.grpo.algorithm import GRPO
from experiments.grpo.settings import GRPOExperiment
from experiments.keys import seed_of
from experiments.main import run_settings
from experiments.r1.rejection import SAMPLES, conversation, reject
from experiments.r1.settings import REASONING, STAGES, JudgeSettings, R1Experiment, RLStage, SFTStage
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.reward_model.settings import RewardModelExperiment
from experiments.rollouts.drawing import pair_records, pairs, samples
from experiments.rollouts.prompts import build_task
from experiments.rollouts.settings import MixtureSettings, RewardModelSettings, TaskSettings
from experiments.sft.algorithm import SFT
from experiments.sft.settings import DataSettings, SFTExperiment
from experiments.workdir import write_learned
from lqlm.errors import UserError
from lqlm.io.datasets import DataSource, Record, records
from lqlm.tasks.base import AnswerFormat
from lqlm.tasks.records import InstructionConfig


def run_stage(settings: R1Experiment, stage: str) -> None:
    """One stage; a finished one is only reported.

    Raises:
        UserError: when what it goes on from is not there.
    """
    STAGE_FUNCTIONS[stage](settings)


def folder(settings: R1Experiment, stage: str) -> pathlib.Path:
    """Where a stage writes; its adapter lies in ``adapter`` below it."""
    return pathlib.Path(settings.workdir) / stage


def before(settings: R1Experiment, stage: str) -> str:
    """The adapter that a stage goes on from; empty: the base.

    Raises:
        UserError: when the stage before has not left one.
    """
    if stage == "reasoning" and settings.zero:
        return ""
    earlier = STAGES[STAGES.index(stage) - 1]
    path = folder(settings, earlier) / "adapter"
    if not path.is_dir():
        raise UserError(f"{path}: no such adapter; stage {stage} goes on from it, so run stage {earlier} first")
    return str(path)


def cold_start(settings: R1Experiment) -> None:
    """SFT of the base on the task's worked solutions, written in its form."""
    task, stage = build_task(settings.task), settings.cold_start
    items = task.train[: stage.examples]
    rows = [conversation(task, item, demonstration(settings, item.solution, item.answer)) for item in items]
    if not all(item.solution for item in task.train):
        raise UserError(f"task {task.name}: it has no worked solutions; leave cold_start out of stages, and set zero")
    _sft(settings, "cold_start", stage, rows, start="")


def demonstration(settings: R1Experiment, solution: str, answer: str) -> str:
    """A worked solution as the form of the task wants it; of a number alone, the number."""
    if form := getattr(settings.task, "form", None):
        return form.write(solution, answer)
    how = AnswerFormat(getattr(settings.task, "answer_format", AnswerFormat.HASHES))  # as GSM8K has it
    return how.write(answer) if how is AnswerFormat.NUMBER else f"{solution}\n{how.write(answer)}"


def reasoning(settings: R1Experiment) -> None:
    """RL for right answers in the right form."""
    _grpo(settings, "reasoning", settings.reasoning, RewardModelSettings(), settings.task)


def rejection(settings: R1Experiment) -> None:
    """Sample the policy, keep what is good, and fine-tune the base anew on it: the adapter begins from nothing."""
    stage = settings.rejection
    others = [dict(row.fields) for row in itertools.islice(_others(stage.others), stage.most_others)]
    rows = reject(settings, before(settings, "rejection"), folder(settings, "rejection"))
    _sft(settings, "rejection", stage, [*rows[: stage.examples], *others], start="")


def _others(source: str) -> Iterator[Record]:
    return records(DataSource(source)) if source else iter(())


def alignment(settings: R1Experiment) -> None:
    """RL for rules and a reward model, on the pipeline's task and all other scenarios."""
    stage = settings.alignment
    before(settings, "alignment")
    task: TaskSettings = settings.task
    if stage.others:
        task = MixtureSettings({REASONING: settings.task, **stage.others})
    judge = RewardModelSettings()
    if stage.judge.weight:
        path = str(_judge(settings, stage.judge))
        judge = RewardModelSettings(path, stage.judge.weight, stage.judge.scenarios)
    _grpo(settings, "alignment", stage, judge, task)


def _judge(settings: R1Experiment, judge: JudgeSettings) -> pathlib.Path:
    """The directory of the reward model, trained on the pairs that are given, or else on the pipeline's own."""
    workdir, data = folder(settings, "alignment") / "reward_model", judge.data
    if not data.source:
        data = dataclasses.replace(data, source=str(_own_pairs(settings, data.heldout)))
    experiment = RewardModelExperiment(
        workdir=str(workdir),
        seed=seed_of(settings, "judge"),
        model=settings.model,
        adapter=settings.adapter,
        data=data,
        text=judge.text,
        reward=judge.reward,
        optim=judge.optim,
        run=judge.run,
    )
    run_settings(REWARD_MODEL, experiment)
    return workdir / "adapter"


def _own_pairs(settings: R1Experiment, heldout: int) -> pathlib.Path:
    """The file of samples that the stage before accepted and refused."""
    task, path = build_task(settings.task), folder(settings, "alignment") / "pairs.jsonl"
    found = pairs(samples(folder(settings, "rejection") / SAMPLES), settings.rejection.threshold)
    if len(found) <= heldout:
        raise UserError(
            f"stage alignment: {len(found)} problems with accepted and refused samples, {heldout} to hold out; "
            "raise rejection.samples or rejection.prompts, or set alignment.judge.weight to 0"
        )
    write_learned(path, pair_records(task, found), path.with_name("reward_model"))
    return path


STAGE_FUNCTIONS = {"cold_start": cold_start, "reasoning": reasoning, "rejection": rejection, "alignment": alignment}


def _sft(settings: R1Experiment, name: str, stage: SFTStage, rows: Iterable[Mapping[str, Any]], start: str) -> None:
    path = folder(settings, name) / "conversations.jsonl"
    chosen = list(rows)
    if len(chosen) <= stage.heldout:
        raise UserError(
            f"stage {name}: {len(chosen)} conversations to learn from and {stage.heldout} to hold out; lower heldout"
        )
    write_learned(path, chosen, path.parent)
    experiment = SFTExperiment(
        workdir=str(folder(settings, name)),
        seed=seed_of(settings, name),
        model=settings.model,
        adapter=settings.adapter,
        start=start,
        data=DataSettings(source=str(path), heldout=stage.heldout),
        text=InstructionConfig(max_length=stage.max_length),
        optim=stage.optim,
        run=stage.run,
    )
    run_settings(SFT, experiment)


def _grpo(settings: R1Experiment, name: str, stage: RLStage, judge: RewardModelSettings, task: TaskSettings) -> None:
    experiment = GRPOExperiment(
        workdir=str(folder(settings, name)),
        seed=seed_of(settings, name),
        model=settings.model,
        adapter=settings.adapter,
        start=before(settings, name),
        task=task,
        rewards=stage.rewards,
        reward_model=judge,
        sampling=stage.sampling,
        grpo=stage.grpo,
        optim=stage.optim,
        run=stage.run,
    )
    run_settings(GRPO, experiment)
