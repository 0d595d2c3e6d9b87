"""The problems of a task as tokens, and the task itself."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence

import numpy as np

from experiments.rollouts.settings import MixtureSettings, RolloutExperiment, TaskSettings, ThinkSettings
from lqlm.errors import UserError
from lqlm.generation.rollout import bucket_for, check_context, pad_prompts, round_up
from lqlm.io.datasets import DataSource, records
from lqlm.io.load import LoadedModel
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item, Task
from lqlm.tasks.gsm8k import Gsm8kConfig, gsm8k_task
from lqlm.tasks.gym import gym_task
from lqlm.tasks.mixture import mixture_task
from lqlm.tasks.poker import PokerConfig, poker_task
from lqlm.tasks.prompts import PromptsConfig, prompts_task
from lqlm.tasks.think import think_task

_log = logging.getLogger("lqlm")
BUCKET_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The task's items as tokens, in buckets of fixed lengths."""

    tokens: dict[str, list[int]]
    buckets: tuple[int, ...]
    pad_id: int

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """Left-padded ``tokens_BP`` and ``mask_BP`` of these items."""
        rows = [self.tokens[item.id] for item in items]
        return pad_prompts(rows, bucket_for(max(map(len, rows)), self.buckets), self.pad_id)


def build_task(settings: TaskSettings) -> Task:
    """The task that a section describes."""
    if isinstance(settings, MixtureSettings):
        return mixture_task({name: build_task(part) for name, part in settings.tasks.items()})
    if isinstance(settings, PromptsConfig):
        source = DataSource(settings.source, settings.split, settings.subset)
        return prompts_task(settings, itertools.islice(records(source), settings.limit or None))
    if isinstance(settings, ThinkSettings):
        return think_task(build_task(settings.task), settings.form, settings.system)
    if isinstance(settings, ArithmeticConfig):
        return arithmetic_task(settings)
    if isinstance(settings, PokerConfig):
        return poker_task(settings)
    return gsm8k_task(settings) if isinstance(settings, Gsm8kConfig) else gym_task(settings)


def encode(task: Task, model: LoadedModel, settings: RolloutExperiment) -> tuple[Task, Prompts]:
    """The task without prompts that are too long, and the others as tokens, checked against context and buckets.

    Raises:
        UserError: for a prompt that the model's context or the buckets do not hold, or when none is short enough.
    """
    every = {item.id: model.tokenizer.chat(task.messages(item)) for item in [*task.train, *task.heldout]}
    most = settings.run.max_prompt or max(map(len, every.values()))
    tokens = {name: row for name, row in every.items() if len(row) <= most}
    if len(tokens) < len(every):
        left = len(every) - len(tokens)
        _log.warning("%d of %d prompts have more than %d tokens and are left out", left, len(every), most)
        train, heldout = ([item for item in side if item.id in tokens] for side in (task.train, task.heldout))
        if not train or not heldout:
            raise UserError(f"run.max_prompt is {most}: no prompt of one side is so short; raise it")
        task = dataclasses.replace(task, train=train, heldout=heldout)
    for name, row in tokens.items():
        check_context(len(row), settings.sampling.max_new_tokens, model.config.max_positions, f"item {name}")
    longest = max(map(len, tokens.values()))
    buckets = settings.run.prompt_buckets or (round_up(longest, BUCKET_MULTIPLE),)
    bucket_for(longest, buckets)
    return task, Prompts(tokens, buckets, model.tokenizer.pad_id)
