"""Rewards: plain functions of one completion, asking by name for what they need.

A parameter may be any of

=========== ==================================================================
prompt      the question as asked (str)
completion  the text that the model wrote (str)
answer      the reference answer (str)
n_tokens    length of the completion in tokens, not characters (int)
truncated   whether it ran into the token limit before its end (bool)
task        the `lqlm.tasks.base.Task`
item        the `lqlm.tasks.base.Item`
=========== ==================================================================

and every other parameter is bound by the config (`RewardSpec.params`) or has a default.  A function of your own works
the same way and is named in the config by its dotted path.
"""

from lqlm.tasks.base import Item, Task, score


def correct(completion: str, answer: str, task: Task, item: Item | None = None) -> float:
    """1 for the right answer, however it is written (the task's lenient score).

    Args:
        completion: text of the model.
        answer: reference answer.
        task: gives extraction and comparison.
        item: the problem; only tasks with a verifier of their own (reasoning-gym) need it.
    """
    return score(task, completion, item or Item("", answer, "")).lenient


def correct_strict(completion: str, answer: str, task: Task, item: Item | None = None) -> float:
    """1 for the right answer in the format that was asked for (the task's strict score); arguments as `correct`."""
    return score(task, completion, item or Item("", answer, "")).strict


def format_reward(completion: str, task: Task) -> float:
    """1 for an answer in the format that was asked for, right or wrong (the format reward of R1, arXiv:2501.12948).

    A format that is never sampled teaches nothing: look at the strict score before training.
    """
    return float(task.strict(completion) is not None)


def soft_overlong(n_tokens: int, limit: int, buffer: int) -> float:
    """Soft overlong punishment, in tokens (DAPO, arXiv:2503.14476, equation 13).

    ``0`` up to ``limit - buffer``, then ``((limit - buffer) - n_tokens) / buffer``, and ``-1`` beyond `limit`.

    Args:
        n_tokens: length of the completion in tokens.
        limit: tokens from which the penalty is -1; not above the longest completion that is sampled.
        buffer: tokens before `limit` over which it grows from 0 to -1.

    >>> [soft_overlong(n, limit=10, buffer=4) for n in (6, 8, 10, 11)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"buffer={buffer}, limit={limit}: needs 0 < buffer <= limit")
    return 0.0 - min(1.0, max(0, n_tokens - (limit - buffer)) / buffer)


def length_penalty(n_tokens: int, per_token: float) -> float:
    """``-per_token * n_tokens``: a constant price for each token of the completion."""
    return 0.0 - per_token * n_tokens


def truncated_penalty(truncated: bool) -> float:
    """-1 for a completion cut off at the token limit, otherwise 0."""
    return 0.0 - float(truncated)
