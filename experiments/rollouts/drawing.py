"""Completions of the training problems by one policy, with their rewards, written down a batch at a time."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import trained
from experiments.decoding import make_sampler, texts_of
from experiments.keys import keys
from experiments.rollouts.prompts import BUCKET_MULTIPLE, build_task
from experiments.rollouts.sample import terminated
from experiments.rollouts.settings import RewardSettings, TaskSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import AdapterConfig
from lqlm.errors import UserError
from lqlm.generation.rollout import pad_prompts, round_up
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.disk import write_atomic
from lqlm.io.peft import WEIGHTS, load_peft
from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import RewardFunction, Sample, bind_all
from lqlm.tasks.base import Item, Task

Row = dict[str, Any]
TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Samples of a policy, and what tells the good ones.

    Attributes:
        prompts: training problems that are sampled (0: all).
        batch: problems sampled at once.
        samples: completions of each.
        threshold: least total reward of an accepted completion.
        rewards: components of that reward.
        sampling: of the completions.
    """

    prompts: int = 0
    batch: int = 8
    samples: int = 4
    threshold: float = 1.0
    rewards: Mapping[str, RewardSettings]
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if min(self.batch, self.samples) < 1 or self.prompts < 0:
            raise UserError(
                f"prompts {self.prompts}, batch {self.batch}, samples {self.samples}; give prompts 0 or more, the "
                "others 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Whose completions, of what.

    Attributes:
        model, adapter: of the policy.
        start: its adapter's directory; empty: the base.
        task: whose problems.
        seed: of the samples.
        how: how many, and how they are rewarded.
    """

    model: ModelSettings
    adapter: AdapterConfig
    start: str
    task: TaskSettings
    seed: int
    how: DrawSettings


def draw(drawing: Drawing, folder: pathlib.Path) -> list[Row]:
    """All samples with their rewards, each with the ``id`` of its problem; a file a batch below the folder.

    Batches that were sampled already are read again: a killed command goes on with the next one.

    Raises:
        UserError: when the folder holds samples of other settings or of another policy.
    """
    how, task = drawing.how, build_task(drawing.task)
    rewards = bind_all([reward.spec(name) for name, reward in how.rewards.items()], task)
    items = list(task.train)[: how.prompts or None]
    folder.mkdir(parents=True, exist_ok=True)
    _check_drawn(drawing, items, folder)
    return [row for part in _batches(drawing, task, rewards, items, folder) for row in part]


def samples(folder: pathlib.Path) -> list[Row]:
    """All samples that `draw` wrote down."""
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


def adapter_digest(adapter: str | pathlib.Path) -> str:
    """A checksum of an adapter's weights; empty for none.

    Raises:
        UserError: where there is no adapter.
    """
    if not str(adapter):
        return ""
    path = pathlib.Path(adapter) / WEIGHTS
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the folder of a PEFT adapter, or none") from error


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


def pair_records(task: Task, found: Sequence[tuple[Row, Row]]) -> Iterator[Row]:
    """Pairs of samples as records that a reward model reads."""
    by_id = {item.id: item for item in task.train}
    for good, bad in found:
        sides = {
            side: [{"role": "assistant", "content": row["completion"]}]
            for side, row in (("chosen", good), ("rejected", bad))
        }
        yield {"prompt": task.messages(by_id[good["id"]]), **sides}


def _check_drawn(drawing: Drawing, items: Sequence[Item], folder: pathlib.Path) -> None:
    """Refuse samples of other settings, problems or policy, which a run that was cut off has left."""
    path = folder.with_name(f"{folder.name}_settings.json")
    names = ("prompts", "batch", "samples", "sampling", "rewards")
    mine: dict[str, Any] = {name: repr(getattr(drawing.how, name)) for name in names}
    mine |= {"task": repr(drawing.task), "seed": drawing.seed, "policy": adapter_digest(drawing.start)}
    told = repr([(item.id, item.question, item.before, item.answer) for item in items])
    mine |= {"model": repr(drawing.model), "set of problems": hashlib.sha256(told.encode()).hexdigest()[:16]}
    if path.exists():
        theirs = json.loads(path.read_text())
        if differs := [name for name in mine if theirs.get(name, mine[name]) != mine[name]]:
            raise UserError(
                f"{folder}: its samples were drawn with another {' and another '.join(differs)}; remove the folder of "
                "the stage, or give a new workdir"
            )
    else:
        write_atomic(path, json.dumps(mine, indent=2) + "\n")


def _batches(
    drawing: Drawing, task: Task, rewards: list[RewardFunction], items: Sequence[Item], folder: pathlib.Path
) -> Iterator[list[Row]]:
    """Samples of one batch of problems after the other, written down as soon as they are rewarded."""
    size, sample = drawing.how.batch, None
    for number, start in enumerate(tqdm(range(0, len(items), size), unit="batch")):
        path = folder / f"{number:05d}.json"
        if not path.exists():
            sample = sample or _sampler(drawing, task, items)
            part = items[start : start + size]
            rows = _rewarded(task, rewards, part, *sample(part, number), some=len(part) < size)
            write_atomic(path, json.dumps(rows, ensure_ascii=False))
        yield json.loads(path.read_text())


def _sampler(drawing: Drawing, task: Task, items: Sequence[Item]) -> Any:
    """``(items, number of the batch) -> (texts, lengths, whether they ended)`` of all their samples."""
    how, model = drawing.how, trained.load(drawing.model, drawing.adapter)
    adapters, kind = load_peft(drawing.start, model.config) if drawing.start else (None, drawing.adapter)
    policy = trained.policy(kind, adapters is not None, rows=how.batch * how.samples)
    base, adapters = policy(trained.products(model.base, drawing.model), adapters)
    decode = make_sampler(model, how.sampling, how.samples)
    tokens = {item.id: model.tokenizer.chat(task.messages(item)) for item in items}
    length = round_up(max(map(len, tokens.values())), BUCKET_MULTIPLE)

    def sample(part: Sequence[Item], number: int) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
        rows = [tokens[item.id] for item in part]
        padded = pad_prompts([*rows, *[rows[0]] * (how.batch - len(rows))], length, model.tokenizer.pad_id)
        done = decode(base, adapters, *padded, jax.random.fold_in(keys(drawing.seed)[1], number))
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
    *,
    some: bool,
) -> list[Row]:
    found = [
        Sample(item.question, text, item.answer, int(lengths[b, g]), not ended[b, g], item)
        for b, item in enumerate(items)
        for g, text in enumerate(texts[b])
    ]
    total = score_all(rewards, found, task=task, timeout_s=TIMEOUT_S, some=some).total.tolist()
    return [
        {"id": sample.item.id, "completion": sample.completion, "tokens": sample.n_tokens, "reward": worth}
        for sample, worth in zip(found, total)
        if sample.item
    ]
