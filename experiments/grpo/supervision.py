"""Process supervision: the steps of completions, their scores, and where in the completions they end."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.grpo.advantages import Process
from experiments.hosts import told_arrays
from experiments.rollouts.sample import terminated
from experiments.run import Run
from lqlm.generation.decode import Completions
from lqlm.rewards.specs import RewardSpec
from lqlm.rewards.steps import (
    StepSample,
    StepScores,
    at_tokens,
    bind_steps,
    known_lengths,
    last_tokens,
    score_steps,
    split_steps,
)
from lqlm.tasks.base import Item, Task

NAME = "steps"
StepReward = Callable[[Sequence[StepSample], float], StepScores]


class Scored(NamedTuple):
    """Step scores of B groups.

    Attributes:
        scores_BGC: float32, at the last tokens of steps; 0 elsewhere.
        ends_BGC: bool, those tokens.
        metrics: of the steps.
        rows: of each sample, its scores, in the order of [B, G].
        errors: samples on which the function failed.
        first_error: one line on the first of them, or None.
    """

    scores_BGC: np.ndarray
    ends_BGC: np.ndarray
    metrics: dict[str, Any]
    rows: list[list[float]]
    errors: int
    first_error: str | None


def step_reward(kind: Process, task: Task) -> StepReward:
    """The step reward that the settings name, checked against its function's signature."""
    reward = bind_steps(RewardSpec(NAME, kind.function, params=kind.params), task)
    return lambda samples, timeout_s: score_steps(reward, samples, task=task, timeout_s=timeout_s)


def scored(run: Run, items: Sequence[Item], completions: Completions) -> Scored:
    """Scores of the steps of all completions; on several hosts those of process 0, in every process."""
    setup, kind = run.setup, run.setup.settings.advantage
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    written = [t[m].tolist() for t, m in zip(_flat(tokens), _flat(mask))]
    texts = [setup.model.tokenizer.decode(own) for own in written]
    parted = [split_steps(text, kind.marker) for text in texts]
    each = [item for item in items for _ in range(tokens.shape[1])]
    cut = ~terminated(completions, setup.model.tokenizer.eos_ids).reshape(-1)
    samples = [
        StepSample(item.question, text, item.answer, len(own), late, item, tuple(step.text for step in steps))
        for item, text, own, late, steps in zip(each, texts, written, cut.tolist(), parted)
    ]
    with run.timers.phase("reward"):
        found = setup.steps(samples, setup.settings.run.reward_timeout)
    lengths = [known_lengths(own, setup.model.tokenizer.decode) for own in written]
    lasts = [last_tokens(known, steps) or [len(known) - 1] for known, steps in zip(lengths, parted)]
    laid = [at_tokens(scores, last, tokens.shape[-1]) for scores, last in zip(found.scores, lasts)]
    scores, ends = (np.stack(x).reshape(tokens.shape) for x in zip(*laid))
    scores, ends = told_arrays((scores, ends))
    return Scored(scores, ends, _metrics(scores, ends), found.scores, found.errors, found.first_error)


def _flat(rows_BGC: np.ndarray) -> np.ndarray:
    return rows_BGC.reshape(-1, rows_BGC.shape[-1])


def _metrics(scores: np.ndarray, ends: np.ndarray) -> dict[str, Any]:
    """Scores over all steps, steps of a completion, and the share of groups in which no step is better than another."""
    of_group = [s[e] for s, e in zip(scores, ends)]
    return {
        "steps/reward": scores[ends].mean(),
        "steps/reward_std": np.mean([g.std(ddof=1) if len(g) > 1 else 0.0 for g in of_group]),
        "steps/mean_count": ends.sum(-1).mean(),
        "steps/frac_zero_std": np.mean([np.ptp(g) == 0 for g in of_group]),
    }
