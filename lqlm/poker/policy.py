"""A language model's policy: probabilities of the legal answers to a prompt from the log-probabilities of their tokens.

Every legal answer is scored as one completion of the prompt, all of them beside each other with the prompt computed
once; an illegal answer has no place in it.  Arrays are padded to few fixed shapes, so that few programs are compiled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.models.config import ModelConfig
from lqlm.models.score import completion_logprobs
from lqlm.poker.answers import Answer
from lqlm.poker.arena.language import action_probabilities
from lqlm.poker.state import State
from lqlm.types import Array, PyTree


class Question(NamedTuple):
    """A prompt and the answers that may follow it, as tokens; an answer ends with the token that ends it."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes that arrays are padded to: ``rows`` questions at once, the others rounded up to a multiple of these.

    Attributes:
        rows: B.
        prompt: tokens of a prompt.
        answers: G.
        tokens: tokens of an answer.
    """

    rows: int = 8
    prompt: int = 64
    answers: int = 12
    tokens: int = 8

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if min(dataclasses.astuple(self)) < 1:
            raise UserError(f"shapes: {self}: all sizes are 1 or more")


class Batch(NamedTuple):
    """Questions as arrays: prompts ``[B, P]`` padded on the left, answers ``[B, G, C]`` on the right; with masks."""

    prompts_BP: np.ndarray
    prompt_mask_BP: np.ndarray
    answers_BGC: np.ndarray
    answer_mask_BGC: np.ndarray


FEWEST_ROWS = 8
"""Batches of fewer rows are not worth a program of their own."""

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Array]
"""The four arrays of a :class:`Batch` -> float32 ``[B, G]``, log-probabilities of whole answers."""


def legal_answers(state: State) -> tuple[Answer, ...]:
    """What a prompt lets one answer: fold, check, call, each choice of a bet or raise, and all-in.

    A choice that is the whole stack is said as all-in only.

    Args:
        state: what the prompt shows.
    """
    raising = state.legal[-1] if state.legal[-1] in ("bet", "raise") else ""
    plain = [Answer(word) for word in state.legal if word != raising]
    sizes = [Answer(raising, amount) for amount in state.choices if raising and amount != state.all_in]
    return (*plain, *sizes, *([Answer("all-in")] if state.all_in else []))


def answer_probabilities(
    answers: Sequence[Answer], logprobs: np.ndarray, temperature: float = 1.0
) -> dict[Answer, float]:
    """Each answer with its probability among these, ``softmax(logprobs / temperature)``.

    >>> round(answer_probabilities([Answer("fold"), Answer("call")], np.log([0.1, 0.3]))[Answer("call")], 3)
    0.75
    """
    return dict(zip(answers, map(float, action_probabilities(logprobs, temperature)), strict=True))


def answer_logprobs(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    answers_BGC: Array,
    answer_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    chunk: int = 1024,
) -> Array:
    """``log p(answer | prompt) = sum_c log p(token c | prompt, earlier tokens)`` of every answer.

    Args:
        base: weights.
        adapters: or None.
        prompts_BP: left-padded.
        prompt_mask_BP: true at real tokens.
        answers_BGC: right-padded.
        answer_mask_BGC: true at real tokens.
        cfg: the model's shape.
        chunk: tokens whose logits are held at once.

    Returns:
        float32 ``[B, G]``; 0 where there is no answer.
    """
    arrays = (prompts_BP, prompt_mask_BP, answers_BGC, answer_mask_BGC)
    logp, _ = completion_logprobs(base, adapters, *arrays, cfg, chunk=chunk)
    return jnp.sum(logp, axis=-1, where=answer_mask_BGC)


def pad_questions(questions: Sequence[Question], shapes: Shapes, pad_id: int) -> Batch:
    """Questions as arrays of B rows; rows that are left over repeat the first question.

    Raises:
        UserError: when there are none or too many, or a prompt or an answer is empty.
    """
    if not 0 < len(questions) <= shapes.rows:
        raise UserError(f"{len(questions)} questions for {shapes.rows} rows; give 1 to that many")
    for row, question in enumerate(questions):
        if not question.prompt or not question.answers or not all(question.answers):
            raise UserError(f"question {row}: a prompt or an answer has no tokens; write some")
    rows = [*questions, *[questions[0]] * (shapes.rows - len(questions))]
    length = _up(max(len(q.prompt) for q in rows), shapes.prompt)
    group = _up(max(len(q.answers) for q in rows), shapes.answers)
    longest = _up(max(len(answer) for q in rows for answer in q.answers), shapes.tokens)
    prompts, answers = np.full((len(rows), length), pad_id, np.int32), np.full((len(rows), group, longest), pad_id)
    masks = np.zeros(prompts.shape, bool), np.zeros(answers.shape, bool)
    for b, question in enumerate(rows):
        _fill(prompts[b], masks[0][b], slice(length - len(question.prompt), length), question.prompt)
        for g, answer in enumerate(question.answers):
            _fill(answers[b, g], masks[1][b, g], slice(len(answer)), answer)
    return Batch(prompts, masks[0], answers.astype(np.int32), masks[1])


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _fill(row: np.ndarray, mask: np.ndarray, place: slice, tokens: Sequence[int]) -> None:
    row[place], mask[place] = tokens, True


def rows_for(questions: int, rows: int) -> int:
    """Rows of a batch: a quarter where that holds the questions and is worth a program of its own, else all.

    >>> rows_for(16, 64), rows_for(17, 64), rows_for(1, 16)
    (16, 64, 16)
    """
    few = rows // 4
    return few if questions <= few and few >= FEWEST_ROWS else rows


def score_questions(score: Score, questions: Sequence[Question], shapes: Shapes, pad_id: int) -> list[np.ndarray]:
    """The log-probability of every answer to every question, so many questions at once.

    Questions of like length are scored together, which changes nothing but the time it takes.

    Args:
        score: the model.
        questions: any number.
        shapes: what arrays are padded to.
        pad_id: what they are filled with.

    Returns:
        For each question a float64 array ``[answers]``.
    """
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].prompt))
    found: list[np.ndarray] = [np.empty(0)] * len(questions)
    for start in range(0, len(order), shapes.rows):
        part = order[start : start + shapes.rows]
        sizes = dataclasses.replace(shapes, rows=rows_for(len(part), shapes.rows))
        scores = np.asarray(score(*pad_questions([questions[i] for i in part], sizes, pad_id)), np.float64)
        for row, i in enumerate(part):
            found[i] = scores[row, : len(questions[i].answers)]
    return found
