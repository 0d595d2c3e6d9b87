"""The problems of a task as tokens, and the task itself."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.rollouts.settings import RolloutExperiment, TaskSettings, ThinkSettings
from lqlm.generation.rollout import bucket_for, check_context, pad_prompts, round_up
from lqlm.io.load import LoadedModel
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item, Task
from lqlm.tasks.gsm8k import Gsm8kConfig, gsm8k_task
from lqlm.tasks.gym import gym_task
from lqlm.tasks.poker import PokerConfig, poker_task
from lqlm.tasks.think import think_task

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
    if isinstance(settings, ThinkSettings):
        return think_task(build_task(settings.task), settings.form, settings.system)
    if isinstance(settings, ArithmeticConfig):
        return arithmetic_task(settings)
    if isinstance(settings, PokerConfig):
        return poker_task(settings)
    return gsm8k_task(settings) if isinstance(settings, Gsm8kConfig) else gym_task(settings)


def encode(task: Task, model: LoadedModel, settings: RolloutExperiment) -> Prompts:
    """Every prompt of the task as tokens, checked against the model's context and the buckets."""
    tokens = {}
    for item in [*task.train, *task.heldout]:
        tokens[item.id] = model.tokenizer.chat(task.messages(item))
        check_context(
            len(tokens[item.id]), settings.sampling.max_new_tokens, model.config.max_positions, f"item {item.id}"
        )
    longest = max(map(len, tokens.values()))
    buckets = settings.run.prompt_buckets or (round_up(longest, BUCKET_MULTIPLE),)
    bucket_for(longest, buckets)
    return Prompts(tokens, buckets, model.tokenizer.pad_id)
