"""Rejection sampling: completions of the training problems, of which only the good ones are kept."""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import trained
from experiments.decoding import make_sampler, texts_of
from experiments.keys import keys
from experiments.r1.settings import R1Experiment, RejectionStage, seed_of
from experiments.rollouts.prompts import BUCKET_MULTIPLE, build_task
from experiments.rollouts.sample import terminated
from lqlm.errors import UserError
from lqlm.generation.rollout import pad_prompts, round_up
from lqlm.io.disk import write_atomic
from lqlm.io.peft import WEIGHTS, load_peft
from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import RewardFunction, Sample, bind_all
from lqlm.tasks.base import Item, Task

Row = dict[str, Any]
TIMEOUT_S = 5.0


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
        UserError: when nothing is accepted.
    """
    stage, task = settings.rejection, build_task(settings.task)
    rewards = bind_rewards(stage, task)
    items = list(task.train)[: stage.prompts or None]
    (folder / "rejection").mkdir(parents=True, exist_ok=True)
    _check_drawn(settings, adapter, folder / "rejection")
    rows = [row for part in _batches(settings, task, rewards, items, adapter, folder / "rejection") for row in part]
    by_id = {item.id: item for item in items}
    kept = [
        conversation(task, by_id[row["id"]], row["completion"]) for row in accepted(rows, stage.threshold, stage.keep)
    ]
    print(f"rejection sampling: {len(rows)} samples of {len(items)} problems, {len(kept)} kept")
    if not kept:
        best = max((row["reward"] for row in rows), default=0.0)
        raise UserError(
            f"rejection: of {len(rows)} samples none has a reward of {stage.threshold} (the best has {best:.3g}); "
            "train stage reasoning longer, or lower rejection.threshold"
        )
    return kept


def _check_drawn(settings: R1Experiment, adapter: str, folder: pathlib.Path) -> None:
    """Refuse samples of other settings or of another policy, which a run that was cut off has left.

    Raises:
        UserError: naming what differs.
    """
    stage, path = settings.rejection, folder.with_name("rejection_settings.json")
    names = ("prompts", "batch", "samples", "sampling", "rewards")
    mine = {name: repr(getattr(stage, name)) for name in names} | {"task": repr(settings.task), "seed": settings.seed}
    mine["policy"] = adapter_digest(adapter)
    if path.exists():
        theirs = json.loads(path.read_text())
        if differs := [name for name in mine if theirs.get(name) != mine[name]]:
            raise UserError(
                f"{folder}: its samples were drawn with another {' and another '.join(differs)}; remove the folder of "
                "the stage, or give a new workdir"
            )
    else:
        write_atomic(path, json.dumps(mine, indent=2) + "\n")


def adapter_digest(adapter: str | pathlib.Path) -> str:
    """A checksum of an adapter's weights; empty for none."""
    return hashlib.sha256((pathlib.Path(adapter) / WEIGHTS).read_bytes()).hexdigest()[:16] if str(adapter) else ""


def accepted(rows: Sequence[Row], threshold: float, keep: int) -> list[Row]:
    """Of each problem the shortest different completions whose reward reaches the threshold, at most so many.

    >>> texts = [("xx", 2, 1), ("x", 1, 1), ("x", 1, 1), ("", 0, 0)]
    >>> rows = [{"id": "a", "completion": text, "tokens": n, "reward": r} for text, n, r in texts]
    >>> [row["completion"] for row in accepted(rows, 1.0, 2)]
    ['x', 'xx']
    """
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["reward"] >= threshold:
            found.setdefault(row["id"], {}).setdefault(row["completion"], row)
    shortest = (sorted(one.values(), key=lambda row: row["tokens"])[:keep] for one in found.values())
    return [row for part in shortest for row in part]


def pairs(rows: Sequence[Row], threshold: float) -> list[tuple[Row, Row]]:
    """Of each problem that has both, the shortest accepted and the worst refused completion that says anything.

    >>> texts = [("xx", 2, 1), ("x", 1, 1), ("y", 1, 0.5), ("", 0, 0)]
    >>> rows = [{"id": "a", "completion": text, "tokens": n, "reward": r} for text, n, r in texts]
    >>> [(chosen["completion"], rejected["completion"]) for chosen, rejected in pairs(rows, 1.0)]
    [('x', 'y')]
    """
    refused: dict[str, Row] = {}
    told = [row for row in rows if row["completion"].strip()]
    for row in told:
        if row["reward"] < threshold and row["reward"] < refused.get(row["id"], {"reward": threshold})["reward"]:
            refused[row["id"]] = row
    return [(row, refused[row["id"]]) for row in accepted(told, threshold, 1) if row["id"] in refused]


def samples(folder: pathlib.Path) -> list[Row]:
    """All samples that `reject` wrote down."""
    return [row for path in sorted((folder / "rejection").glob("*.json")) for row in json.loads(path.read_text())]


def bind_rewards(stage: RejectionStage, task: Task) -> list[RewardFunction]:
    """The rewards that decide, checked against their functions."""
    return bind_all([reward.spec(name) for name, reward in stage.rewards.items()], task)


def _batches(
    settings: R1Experiment,
    task: Task,
    rewards: list[RewardFunction],
    items: Sequence[Item],
    adapter: str,
    folder: pathlib.Path,
) -> Iterator[list[Row]]:
    """Samples of one batch of problems after the other, written down as soon as they are rewarded."""
    size, sample = settings.rejection.batch, None
    for number, start in enumerate(tqdm(range(0, len(items), size), unit="batch")):
        path = folder / f"{number:05d}.json"
        if not path.exists():
            sample = sample or _sampler(settings, task, items, adapter)
            part = items[start : start + size]
            rows = _rewarded(task, rewards, part, *sample(part, number))
            write_atomic(path, json.dumps(rows, ensure_ascii=False))
        yield json.loads(path.read_text())


def _sampler(settings: R1Experiment, task: Task, items: Sequence[Item], adapter: str) -> Any:
    """``(items, number of the batch) -> (texts, lengths, whether they ended)`` of all their samples."""
    stage = settings.rejection
    model = trained.load(settings.model, settings.adapter)
    adapters, kind = load_peft(adapter, model.config)
    policy = trained.policy(kind, True)(trained.products(model.base, settings.model), adapters)
    draw = make_sampler(model, stage.sampling, stage.samples)
    tokens = {item.id: model.tokenizer.chat(task.messages(item)) for item in items}
    length = round_up(max(map(len, tokens.values())), BUCKET_MULTIPLE)

    def sample(part: Sequence[Item], number: int) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
        rows = [tokens[item.id] for item in part]
        padded = pad_prompts([*rows, *[rows[0]] * (stage.batch - len(rows))], length, model.tokenizer.pad_id)
        done = draw(*policy, *padded, jax.random.fold_in(keys(seed_of(settings, "rejection"))[1], number))
        lengths = np.asarray(done.mask_BGC).sum(-1)
        return texts_of(model.tokenizer, done), lengths, terminated(done, model.tokenizer.eos_ids)

    return sample


def _rewarded(
    task: Task,
    rewards: list[RewardFunction],
    items: Sequence[Item],
    texts: list[list[str]],
    lengths: np.ndarray,
    ended: np.ndarray,
) -> list[Row]:
    samples = [
        Sample(item.question, text, item.answer, int(lengths[b, g]), not ended[b, g], item)
        for b, item in enumerate(items)
        for g, text in enumerate(texts[b])
    ]
    total = score_all(rewards, samples, task=task, timeout_s=TIMEOUT_S).total.tolist()
    return [
        {"id": sample.item.id, "completion": sample.completion, "tokens": sample.n_tokens, "reward": worth}
        for sample, worth in zip(samples, total)
        if sample.item
    ]
