"""Rewards of poker decisions: what an answer wins by playing on, whether it is legal, whether the player did the same.

They judge items of :mod:`lqlm.tasks.poker`.  An answer that is illegal or cannot be read counts as the legal decision
that the table takes it for (:func:`lqlm.poker.arena.actions.resolve`): the nearest size, else the call, else the
check or the fold.  Values are functions of decision, answer and settings, found once and remembered.
"""

from lqlm.tasks.base import Item, Task, score
from lqlm.tasks.poker import big_blinds, is_legal, poker_item


def chips(completion: str, item: Item, penalty: float = 0.5) -> float:
    """``clip(v / scale, -clip, clip) - penalty [illegal]`` with v the big blinds that the answer wins from then on.

    The zero is the stack at the decision, so that a fold has v = 0; `scale` and `clip` are the task's.

    Args:
        completion: text of the model.
        item: the decision.
        penalty: price of an answer that is illegal or cannot be read.
    """
    asked = poker_item(item)
    value, most = big_blinds(completion, asked) / asked.scale, asked.clip or float("inf")
    return min(max(value, -most), most) - penalty * (1.0 - is_legal(completion, asked))


def legal(completion: str, item: Item) -> float:
    """1 for an answer that can be read and is legal there, otherwise 0."""
    return is_legal(completion, item)


def agrees(completion: str, task: Task, item: Item) -> float:
    """1 where the answer's word (fold, check, call, bet, raise) is that of the player in the log, otherwise 0."""
    return score(task, completion, item).lenient
