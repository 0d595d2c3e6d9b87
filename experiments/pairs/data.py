"""Pairs, or scored texts, to learn from and to hold out, as batches of one shape."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.mesh import batched
from experiments.pairs.settings import PairData, PairExperiment
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.scored import ScoredBatch
from lqlm.errors import UserError
from lqlm.generation.rollout import round_up
from lqlm.io.datasets import DataSource, Record, records
from lqlm.io.load import LoadedModel
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item, batch_at
from lqlm.tasks.pair_batches import pad_pairs, split_pairs, without_prompts_of
from lqlm.tasks.pairs import PairConfig, read_pairs
from lqlm.tasks.scored import Scored, ScoredConfig, read_scored

_log = logging.getLogger("lqlm")
MADE = ArithmeticConfig(operators="+-", operands=(0, 19), train=100_000, heldout=1)
MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
        train: pairs (or scored texts) to learn from.
        heldout: those to evaluate on; no prompt is on both sides.
        lengths: P and C of every batch.
        pad_id: written at padding.
        fingerprint: of all pairs.
    """

    train: list[Any]
    heldout: list[Any]
    lengths: tuple[int, int]
    pad_id: int
    fingerprint: str

    def at(self, step: int, size: int, seed: int, mesh: Mesh | None) -> tuple[Any, int]:
        """The batch of a step, a pure function of step and seed, and its number of tokens (prompts counted once)."""
        pairs = batch_at(self.train, step, size, seed)
        tokens = sum(len(pair.prompt) + sum(map(len, pair.sides)) for pair in pairs)
        return self.batch(pairs, size, mesh), tokens

    def batch(self, pairs: Sequence[Any], size: int, mesh: Mesh | None) -> Any:
        """Some pairs on the device, or split over the data axes of a mesh; filled up with rows that hold none.

        Of pairs it is a `PairBatch`, of scored texts a `ScoredBatch`.
        """
        rows = pad_pairs(pairs, *self.lengths, self.pad_id, rows=size)
        batch = (ScoredBatch if isinstance(pairs[0], Scored) else PairBatch)(*rows)  # type: ignore[arg-type]
        return jax.tree.map(jnp.asarray, batch) if mesh is None else batched(mesh, batch)

    def heldout_batches(self, size: int, most: int, mesh: Mesh | None) -> Iterator[tuple[list[Any], Any]]:
        """Held-out pairs in order, at most so many (0: all), and their batches, all of one shape."""
        chosen = self.heldout[: most or None]
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield part, self.batch(part, size, mesh)


def _read(
    found: Iterable[Record], model: LoadedModel, text: PairConfig | ScoredConfig
) -> tuple[list[Any], dict[str, int]]:
    if isinstance(text, ScoredConfig):
        return read_scored(found, model.tokenizer, text)
    return read_pairs(found, model.tokenizer, text)


def found_records(settings: PairData, single: bool = False) -> list[Record]:
    """All records, or those that are made here: pairs, or single texts with a score.

    Raises:
        UserError: naming the file and line, or the setting, that cannot be used.
    """
    if not settings.source:
        return list(itertools.islice(made_scored() if single else made(), settings.limit or None))
    source = DataSource(settings.source, settings.split, settings.subset, settings.data_files)
    return list(itertools.islice(records(source), settings.limit or None))


def heldout_records(settings: PairData) -> list[Record]:
    """The records of a source of held-out pairs; none without one."""
    return list(records(DataSource(settings.heldout_source))) if settings.heldout_source else []


def made() -> Iterator[Record]:
    """Sums and differences with their answer, and with another number that is at most 9 away from it."""
    task = arithmetic_task(MADE)
    for item in [*task.heldout, *task.train]:
        question = f"\n\nHuman: {item.question}\n\nAssistant:"
        yield Record(item.id, {"chosen": f"{question} {item.answer}", "rejected": f"{question} {wrong_answer(item)}"})


def made_scored() -> Iterator[Record]:
    """The same problems, each with one answer: a right one scores 1, a wrong one 0.

    >>> [(record.fields["completion"], record.fields["score"]) for record in itertools.islice(made_scored(), 4)]
    [(' 1', False), (' -2', True), (' 2', False), (' -2', True)]
    """
    task = arithmetic_task(MADE)
    for number, item in enumerate([*task.heldout, *task.train]):
        reply = item.answer if number % 2 else wrong_answer(item)
        fields = {"prompt": f"\n\nHuman: {item.question}\n\nAssistant:", "completion": f" {reply}"}
        yield Record(item.id, {**fields, "score": reply == item.answer})


def wrong_answer(item: Item) -> str:
    """A number near the answer, always the same for one problem.

    >>> wrong_answer(Item("What is 3 + 4?", "7", "arithmetic/3 + 4"))
    '-1'
    """
    draw = hashlib.blake2b(item.id.encode(), digest_size=8).digest()
    away = 1 + draw[0] % 9
    return str(int(item.answer) + (away if draw[1] % 2 else -away))


def prepare(
    settings: PairExperiment, found: Iterable[Record], model: LoadedModel, apart: Sequence[Record] = ()
) -> Data:
    """Tokens, split and lengths.

    Args:
        settings: of the run.
        found: records to learn from; without others, some are held out.
        model: whose tokens.
        apart: records of their own to hold out.

    Raises:
        UserError: naming the record that does not fit, or when no pair is left to learn from or to hold out.
    """
    pairs, skipped = _read(found, model, settings.text)
    if skipped:
        _log.warning("some records give nothing: %s", ", ".join(f"{why}: {n}" for why, n in skipped.items()))
    if apart:
        heldout, _ = _read(apart, model, settings.text)
        train = without_prompts_of(pairs, heldout)
        pairs = [*train, *heldout]
    else:
        train, heldout = split_pairs(pairs, settings.data.heldout)
    prompt = round_up(max(len(pair.prompt) for pair in pairs), MULTIPLE)
    completion = round_up(max(max(map(len, pair.sides)) for pair in pairs), MULTIPLE)
    longest = max(len(pair.prompt) + max(map(len, pair.sides)) for pair in pairs)
    if longest > model.config.max_positions:
        raise UserError(
            f"the longest pair has {longest} tokens, the model {model.config.max_positions} positions; lower "
            "text.max_prompt or text.max_completion"
        )
    text = repr([(pair[:4], where) for where, side in enumerate((train, heldout)) for pair in side])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Data(train, heldout, (prompt, completion), model.tokenizer.pad_id, digest)
