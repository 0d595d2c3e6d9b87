"""Rejection sampling: completions of the training problems, of which only the good ones are kept."""

import pathlib

from experiments.keys import seed_of
from experiments.r1.settings import R1Experiment
from experiments.rollouts.drawing import Drawing, Row, accepted, draw
from experiments.rollouts.prompts import build_task
from lqlm.errors import UserError
from lqlm.tasks.base import Item, Task

SAMPLES = "rejection"
"""Folder of the samples, in that of the stage."""


def conversation(task: Task, item: Item, reply: str) -> Row:
    """A problem as it is asked, and a reply, as supervised fine-tuning reads them."""
    return {"messages": [*task.messages(item), {"role": "assistant", "content": reply}]}


def reject(settings: R1Experiment, adapter: str, folder: pathlib.Path) -> list[Row]:
    """Accepted completions as conversations; all samples with their rewards are written down, a file a batch.

    Batches that were sampled already are read again: a killed command goes on with the next one.

    Args:
        settings: of the pipeline.
        adapter: of the policy that is sampled.
        folder: of the stage.

    Raises:
        UserError: when nothing is accepted, or the folder holds samples of other settings.
    """
    stage, task = settings.rejection, build_task(settings.task)
    drawing = Drawing(settings.model, settings.adapter, adapter, settings.task, seed_of(settings, "rejection"), stage)
    rows = draw(drawing, folder / SAMPLES)
    by_id = {item.id: item for item in task.train}
    kept = [
        conversation(task, by_id[row["id"]], row["completion"]) for row in accepted(rows, stage.threshold, stage.keep)
    ]
    print(f"rejection sampling: {len(rows)} samples of {len({row['id'] for row in rows})} problems, {len(kept)} kept")
    if not kept:
        best = max((row["reward"] for row in rows), default=0.0)
        raise UserError(
            f"rejection: of {len(rows)} samples none has a reward of {stage.threshold} (the best has {best:.3g}); "
            "train stage reasoning longer, or lower rejection.threshold"
        )
    return kept
