"""Rewards of the steps of a completion: parting its text, scoring the parts, and finding their last tokens.

A step reward is a plain function as in `lqlm.rewards.functions` that may ask for ``steps`` too, the texts of a
completion's steps, and returns one number for each of them.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.generation.stop import UNFINISHED, Decode, Detokenizer
from lqlm.rewards.combine import as_float
from lqlm.rewards.specs import FIELDS, RewardFunction, RewardSpec, Sample, bind, describe
from lqlm.rewards.timeout import Timeout, within
from lqlm.tasks.base import Task


class Step(NamedTuple):
    """A part of a text.

    Attributes:
        text: without the marker, and without blanks around it.
        end: characters of the whole text up to its end, the marker among them.
    """

    text: str
    end: int


@dataclasses.dataclass(frozen=True)
class StepSample(Sample):
    """One completion, as step rewards see it: a `Sample`, and the texts of its steps."""

    steps: tuple[str, ...] = ()


class StepScores(NamedTuple):
    """Scores of the steps of n samples.

    Attributes:
        scores: of each sample, one for each of its steps; all 0 where the function failed.
        errors: samples on which the function failed.
        first_error: one line on the first of them, or None.
    """

    scores: list[list[float]]
    errors: int
    first_error: str | None


def split_steps(text: str, marker: str = "\n") -> list[Step]:
    """Parts of a text, each up to a marker, its own end; the last one ends with the text.

    What is blank is no step of its own: the next step begins with it.  A text that is blank has no steps.

    Args:
        text: of a completion.
        marker: what ends a step; not empty.

    >>> split_steps("1 + 2 = 3\\n\\n3 x 2 = 6")
    [Step(text='1 + 2 = 3', end=10), Step(text='3 x 2 = 6', end=20)]
    """
    pieces = text.split(marker)
    ends = itertools.accumulate(len(piece) + len(marker) for piece in pieces)
    found = [Step(piece.strip(), min(end, len(text))) for piece, end in zip(pieces, ends) if piece.strip()]
    return [*found[:-1], Step(found[-1].text, len(text))] if found else []


def known_lengths(tokens: Sequence[int], decode: Decode) -> list[int]:
    """Characters of the text that are complete after each token: one whose bytes several tokens bring, after the last.

    Args:
        tokens: of a completion.
        decode: their text, such as :meth:`lqlm.io.tokenizer.Tokenizer.decode`.

    >>> known_lengths("aé\\n".encode(), lambda tokens: bytes(tokens).decode(errors="replace"))
    [1, 1, 2, 3]
    """
    text, known, found = Detokenizer(decode), 0, []
    for token in tokens:
        known += len(text.push(token))
        found.append(known + len(text.held().rstrip(UNFINISHED)))
    return found


def last_tokens(lengths: Sequence[int], steps: Sequence[Step]) -> list[int]:
    """The token with which each step is complete, the one that brings its last character.

    The last step ends with the last token, also where that adds no text: the end of the completion is a part of it.

    Args:
        lengths: of `known_lengths`, of the completion's tokens.
        steps: of `split_steps`, of their text.

    Returns:
        Places of tokens, not decreasing; the same for steps that end within one token.

    >>> last_tokens([1, 4, 4, 7, 7], split_steps("a=b\\né\\nc"))
    [1, 3, 4]
    """
    last = len(lengths) - 1
    return [min(bisect.bisect_left(lengths, step.end), last) for step in steps[:-1]] + [last] * bool(steps)


def bind_steps(spec: RewardSpec, task: Task | None) -> RewardFunction:
    """A step reward checked against its function's signature: do it once, before any work."""
    bound = bind(spec, (*FIELDS, "steps"))
    if "steps" not in bound.fields:
        raise UserError(f"step reward {spec.name!r} ({bound.path}) does not ask for steps; give it a parameter 'steps'")
    if task is None and "task" in bound.fields:
        raise UserError(f"step reward {spec.name!r} ({bound.path}) wants a task, and there is none; pass task=...")
    return bound


def score_steps(
    reward: RewardFunction, samples: Sequence[StepSample], *, task: Task | None, timeout_s: float | None
) -> StepScores:
    """Scores of the steps of all samples.

    A function that raises, runs longer than `timeout_s`, or returns another number of scores than there are steps, or
    one that is not finite, gives all steps of that sample 0 and is counted; where it fails on every sample that has
    steps it raises UserError.  It is not asked about samples without steps.

    Args:
        reward: from `bind_steps`.
        samples: n completions.
        task: for functions that ask for it.
        timeout_s: seconds for one sample; None: no limit.
    """
    found = [_scored(reward, sample, task, timeout_s) if sample.steps else ([], None) for sample in samples]
    failed = [(i, cause) for i, (_, cause) in enumerate(found) if cause is not None]
    where = f"step reward {reward.name!r} ({reward.path}) failed on"
    if failed and len(failed) == sum(bool(sample.steps) for sample in samples):
        raise UserError(f"{where} every sample: {failed[0][1]}")
    first = f"{where} sample {failed[0][0] + 1} of {len(samples)} (steps counted 0): {failed[0][1]}" if failed else None
    return StepScores([scores for scores, _ in found], len(failed), first)


def _scored(
    reward: RewardFunction, sample: StepSample, task: Task | None, timeout_s: float | None
) -> tuple[list[float], str | None]:
    """(scores, None), or (zeros, cause and cure)."""
    zeros = [0.0] * len(sample.steps)
    try:
        return within(timeout_s, lambda: _as_scores(reward(sample, task), len(zeros))), None
    except Timeout:
        return zeros, f"it ran longer than {timeout_s} s; make it end sooner or raise the time limit"
    except (Exception, SystemExit) as error:  # as in `lqlm.rewards.combine.score_all`
        return zeros, f"{describe(error)}; make it return one finite number for each step"


def _as_scores(values: object, count: int) -> list[float]:
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise TypeError(f"returned {type(values).__name__} {str(values)[:40]!r}, not a list of numbers")
    if len(values) != count:
        raise ValueError(f"returned {len(values)} scores for {count} steps")
    return [as_float(value) for value in values]


def at_tokens(scores: Sequence[float], lasts: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Step scores where `lqlm.algorithms.advantages.process_advantages` wants them: at the last tokens of the steps.

    Steps that end within one token are one step there, worth the mean of their scores.  A completion without steps is
    one step that is worth 0, so that silence is compared with what the others say.

    Args:
        scores: of a sample's steps.
        lasts: of `last_tokens`; of a sample without steps its last token, alone.
        length: C.

    Returns:
        (scores float32 [C], ends bool [C]).

    >>> at_tokens([1.0, 0.0, 1.0], [0, 2, 2], 4)
    (array([1. , 0. , 0.5, 0. ], dtype=float32), array([ True, False,  True, False]))
    """
    total, count = np.zeros(length, np.float32), np.zeros(length, np.float32)
    np.add.at(total, lasts, scores or [0.0])
    np.add.at(count, lasts, 1.0)
    return total / np.maximum(count, 1.0), count > 0
