"""Rewards of repetition and length, from "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373)."""

import math

from lqlm.rewards.functions import correct as is_correct
from lqlm.tasks.base import Item, Task


def repetition_penalty(completion: str, n: int = 3, worst: float = -1.0) -> float:
    """``worst * (1 - distinct n-grams / n-grams)`` over words in lower case; 0 where there is no n-gram.

    Args:
        completion: text of the model.
        n: words in an n-gram, 1 or more.
        worst: what a text that repeats one n-gram for ever comes close to; 0 or less.

    >>> repetition_penalty("so it is so it is so it is", n=3)  # 3 distinct of 7
    -0.5714285714285714
    """
    if n < 1 or worst > 0:
        raise ValueError(f"n={n}, worst={worst}: needs n >= 1 and worst <= 0")
    words = completion.lower().split()
    total = len(words) - n + 1
    distinct = len(set(zip(*(words[i:] for i in range(n)), strict=False)))
    return worst * (1 - distinct / total) if total > 0 else 0.0


def cosine(n_tokens: int, limit: int, shortest: float, longest: float) -> float:
    """``longest + (shortest - longest) (1 + cos(pi n / limit)) / 2``, with n at most `limit` (CosFn of the paper).

    >>> [cosine(n, 100, 1.0, 0.5) for n in (0, 50, 100, 300)]
    [1.0, 0.75, 0.5, 0.5]
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: needs limit >= 1")
    return longest + (shortest - longest) * (1 + math.cos(math.pi * min(n_tokens, limit) / limit)) / 2


def cosine_length(
    completion: str,
    answer: str,
    n_tokens: int,
    truncated: bool,
    task: Task,
    item: Item | None = None,
    *,
    limit: int,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    exceeded: float | None = None,
) -> float:
    """The cosine length reward: a right answer is worth more when short, a wrong one costs less when long.

    ``CosFn(n_tokens, limit, *right)`` for the right answer (the task's lenient score is 1), otherwise
    ``CosFn(n_tokens, limit, *wrong)``; `exceeded` for a truncated completion (the paper: -10).

    Args:
        completion: text of the model.
        answer: reference answer.
        n_tokens: length of the completion in tokens.
        truncated: it reached the token limit without an end token.
        task: gives extraction and comparison.
        item: the problem; only tasks with a verifier of their own need it.
        limit: tokens at which the longest value is reached.
        right: (shortest, longest) value of a right answer.
        wrong: (shortest, longest) value of a wrong one.
        exceeded: value of a truncated completion; None: it is treated as any other.

    >>> from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
    >>> task = arithmetic_task(ArithmeticConfig())
    >>> [cosine_length(text, "7", 50, False, task, limit=100) for text in ("7", "8", "")]
    [0.75, -0.75, -0.75]
    """
    if truncated and exceeded is not None:
        return exceeded
    good = is_correct(completion, answer, task, item) == 1.0
    return cosine(n_tokens, limit, *(right if good else wrong))
