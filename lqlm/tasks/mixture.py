"""Several tasks as one: each step draws from all of them, and each item is asked and judged by its own.

How often a scenario comes is its share of the training items: limit the larger ones.
"""

import dataclasses
import itertools
from collections.abc import Mapping

from lqlm.errors import UserError
from lqlm.tasks.base import Item, Task


def mixture_task(tasks: Mapping[str, Task]) -> Task:
    """Items of all tasks by turns; `Task.of` gives an item's own, which writes its chat and scores its completions.

    Measures of a single scenario are left out: they are not defined for the items of the others.

    Args:
        tasks: scenario -> task; none is a mixture itself.

    Raises:
        UserError: for fewer than two tasks, or a mixture of mixtures.

    >>> from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
    >>> sums, products = (arithmetic_task(ArithmeticConfig(operators=sign, heldout=8)) for sign in "+*")
    >>> task = mixture_task({"sums": sums, "products": products})
    >>> len(task.heldout), [item.scenario for item in task.heldout[:3]], task.of(task.heldout[0]) is sums
    (16, ['sums', 'products', 'sums'], True)
    """
    if len(tasks) < 2 or any(task.scenarios for task in tasks.values()):
        raise UserError(f"mixture of {', '.join(tasks) or 'nothing'}: give two or more tasks, none a mixture itself")

    def items(side: str) -> list[Item]:
        own = [
            [dataclasses.replace(item, id=f"{name}/{item.id}", scenario=name) for item in getattr(task, side)]
            for name, task in tasks.items()
        ]
        return [item for row in itertools.zip_longest(*own) for item in row if item is not None]

    return Task(
        name="+".join(tasks),
        train=items("train"),
        heldout=items("heldout"),
        strict=_no_item,
        lenient=_no_item,
        scenarios=dict(tasks),
    )


def _no_item(text: str) -> str | None:
    """An answer cannot be found in a text without knowing whose answer it is."""
    raise UserError("a mixture of tasks reads no answers; ask the item's own task, Task.of(item)")
