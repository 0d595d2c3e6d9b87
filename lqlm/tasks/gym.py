"""Tasks of reasoning-gym (https://github.com/open-thought/reasoning-gym): generated problems with their own verifiers.

An optional extra: ``pip install 'lqlm[gym]'``.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from lqlm.errors import UserError
from lqlm.tasks.base import AnswerFormat, Item, Task, last_number, only_number

SYSTEM = "Think step by step. Give the final answer, and nothing else, inside of tags: <answer>...</answer>"


@dataclasses.dataclass(frozen=True)
class GymConfig:
    """Which generator, how many problems and how hard.

    Attributes:
        name: name of a generator, such as "chain_sum" or "countdown".
        train, heldout: numbers of problems; repeated questions are left out, so there may be fewer.
        seed: held-out problems are generated with it, training problems with seed + 1.
        options: the generator's own settings, such as {"max_terms": 3}.
        system: system prompt, which asks for the strict format <answer>...</answer>.
    """

    name: str
    train: int = 1024
    heldout: int = 128
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    system: str | None = SYSTEM


def _generate(config: GymConfig, size: int, seed: int) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(f"gym task {config.name!r}: {error}; install the extra: pip install 'lqlm[gym]'") from None
    try:
        return reasoning_gym.create_dataset(config.name, **{**config.options, "size": size, "seed": seed})
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"gym task {config.name!r} with options {dict(config.options)}: {error}; "
            "see reasoning-gym's gallery for the names and their settings"
        ) from error


def _distinct(entries: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Entries whose question has not been seen; `seen` is updated."""
    for entry in itertools.islice(entries, len(entries)):
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield entry


def _last_line(text: str) -> str | None:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else None


def _lenient(text: str, numeric: bool) -> str | None:
    """The last number where all answers are numbers; otherwise what the tags hold, or the last line."""
    if numeric:
        return last_number(text)
    inner = AnswerFormat.TAG.inner(text)
    return _last_line(text) if inner is None else inner


def gym_task(config: GymConfig) -> Task:
    """A generator's problems, scored by its own `score_answer`, which may give part of the credit."""
    held, training = _generate(config, config.heldout, config.seed), _generate(config, config.train, config.seed + 1)
    seen: set[str] = set()
    entries = {"heldout": list(_distinct(held, seen)), "train": list(_distinct(training, seen))}
    if not all(entries.values()):
        raise UserError(
            f"gym task {config.name!r}: too few distinct problems for {config.heldout} held-out and {config.train} "
            "training problems; lower heldout or set harder options"
        )
    by_question = {entry["question"]: entry for split in entries.values() for entry in split}

    def verify(prediction: str, item: Item) -> float:
        entry = by_question.get(item.question)
        if entry is None:
            raise UserError(f"gym task {config.name!r}: the question {item.question[:60]!r} is none of its items")
        try:
            return float(held.score_answer(prediction, entry))
        except Exception:  # some verifiers parse the prediction without care: what they cannot read is wrong
            return 0.0

    items = {
        split: [Item(e["question"], str(e["answer"]), f"gym/{config.name}/{split}/{i}") for i, e in enumerate(chosen)]
        for split, chosen in entries.items()
    }
    numeric = all(only_number(item.answer) is not None for item in items["heldout"])
    return Task(
        name=f"gym/{config.name}",
        train=items["train"],
        heldout=items["heldout"],
        strict=AnswerFormat.TAG.inner,
        lenient=lambda text: _lenient(text, numeric),
        verify=verify,
        system=config.system,
    )
