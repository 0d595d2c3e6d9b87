"""From records to tokens, and which of them a model is to learn (supervised fine-tuning).

What forms a record may have, and how each is written, is said in :mod:`lqlm.tasks.records`.  Every completion ends with
an end token that is learned too: the chat template's, and where that writes none, ``eos_ids[0]``.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from lqlm.errors import UserError
from lqlm.tasks.base import batch_at
from lqlm.tasks.records import InstructionConfig, Piece, Renderer, form_of, instances, text_of, write

__all__ = ["Example", "Examples", "InstructionConfig", "Prompt", "Skip", "Tokenized", "Tokenizer"]
__all__ += ["hold_out", "prompts", "read_examples", "tokenize"]
T = TypeVar("T")


class Tokenizer(Renderer, Protocol):
    """What is needed of a tokenizer; :class:`lqlm.io.tokenizer.Tokenizer` has it."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a completion, the one to write first."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text from its beginning."""

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text without an added begin token."""


class Example(NamedTuple):
    """One sequence to learn from.

    Attributes:
        tokens: int32 ``[n]``.
        targets: bool ``[n]``: which tokens are to be predicted, each from those before it; never the first.
    """

    tokens: np.ndarray
    targets: np.ndarray


class Skip(enum.StrEnum):
    """Why nothing is learned from a record, or from an instance of it."""

    EMPTY = "empty completion"
    TOO_LONG = "longer than max_length"
    NO_TARGET = "no target left after truncation"


class Prompt(NamedTuple):
    """A question to generate from: its tokens, its text, and the text that answers it in the record."""

    tokens: list[int]
    text: str
    reference: str


class Tokenized(NamedTuple):
    """The examples of one record, and a reason for each that it did not give."""

    examples: list[Example]
    skipped: list[Skip]


class Examples(NamedTuple):
    """The examples of all records, and how many were left out for which reason."""

    examples: list[Example]
    skipped: dict[str, int]


def read_examples(
    records: Iterable[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, config: InstructionConfig
) -> Examples:
    """The examples of all records.

    Args:
        records: pairs of a place, for error messages, and fields; `lqlm.io.datasets.records` gives them.
        tokenizer: of the model.
        config: how records become examples.

    Raises:
        UserError: naming the record and the field that does not fit; or when no example is left.
    """
    examples: list[Example] = []
    skipped: Counter[str] = Counter()
    where = "data"
    for where, fields in records:
        found = tokenize(where, fields, tokenizer, config)
        examples += found.examples
        skipped.update(str(reason) for reason in found.skipped)
    if not examples:
        reasons = "; ".join(f"{reason}: {n}" for reason, n in skipped.items()) or "no records"
        raise UserError(f"{where} and all before it: nothing to learn from ({reasons}); check the data and max_length")
    return Examples(examples, dict(skipped))


def tokenize(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: InstructionConfig) -> Tokenized:
    """The examples of one record: one, or one for each instance, or one for each piece of a long text.

    Args:
        where: place of the record, for error messages.
        fields: of the record.
        tokenizer: of the model.
        config: how records become examples.

    Raises:
        UserError: naming the record, and the field that is missing or does not fit.
    """
    results: list[list[Example] | Skip] = []
    for place, one in instances(where, fields, config):
        form = form_of(place, one, config)
        if form == "text":
            results.append(_document(text_of(place, one, config.text), tokenizer, config.max_length))
        else:
            written = write(place, one, form, tokenizer, config)
            encode = tokenizer.encode_more if written.templated else tokenizer.encode
            results.append(_completion(place, written.pieces, encode, tokenizer, config))
    examples = [example for result in results if not isinstance(result, Skip) for example in result]
    return Tokenized(examples, [result for result in results if isinstance(result, Skip)])


def prompts(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: InstructionConfig) -> list[Prompt]:
    """What to generate from: the text before a record's last completion, which is the reference; none if it is empty.

    Args:
        where, fields, tokenizer, config: as for :func:`tokenize`; nothing is truncated.

    Raises:
        UserError: as :func:`tokenize`, and for a document, which asks nothing.
    """
    found = []
    for place, one in instances(where, fields, config):
        form = form_of(place, one, config)
        if form == "text":
            raise UserError(f"{place}: a plain text asks for no completion; evaluate it without generating")
        written = write(place, one, form, tokenizer, config)
        encode = tokenizer.encode_more if written.templated else tokenizer.encode
        if written.reference.strip():
            found.append(Prompt(encode(written.question), written.question, written.reference))
    return found


def hold_out(items: Sequence[T], n: int, seed: int) -> tuple[list[T], list[T]]:
    """Training and held-out items, each part in the order it had.

    Give it records rather than examples: the instances of an instruction then stay together.

    Args:
        items: more than `n`.
        n: how many are held out.
        seed: picks them.

    >>> hold_out("abcdef", 2, seed=0)
    (['c', 'd', 'e', 'f'], ['a', 'b'])
    """
    if not 0 <= n < len(items):
        raise UserError(f"data: {n} records to hold out of {len(items)}; at least one must be left for training")
    chosen = set(batch_at(range(len(items)), 0, n, seed)) if n else set()
    return [x for i, x in enumerate(items) if i not in chosen], [items[i] for i in sorted(chosen)]


def _document(text: str, tokenizer: Tokenizer, length: int) -> list[Example] | Skip:
    """Pieces of a document that overlap by one token: the last of one is the first, so no target, of the next."""
    if not text.strip():
        return Skip.EMPTY
    ids = tokenizer.encode(text)
    if not ids or ids[-1] not in tokenizer.eos_ids:
        ids = [*ids, tokenizer.eos_ids[0]]
    starts = range(0, len(ids) - 1, length - 1)
    return [_example(ids[start : start + length], [True] * length) for start in starts] or Skip.NO_TARGET


def _completion(
    where: str,
    pieces: Sequence[Piece],
    encode: Callable[[str], list[int]],
    tokenizer: Tokenizer,
    config: InstructionConfig,
) -> list[Example] | Skip:
    if not pieces:
        return Skip.EMPTY
    parts = _encode_pieces([piece.text for piece in pieces], encode, tokenizer.encode_more)
    learned = [piece.learned or not config.completion_only for piece in pieces]
    if pieces[-1].learned and not set(parts[-1]) & set(tokenizer.eos_ids):
        parts[-1] = [*parts[-1], tokenizer.eos_ids[0]]
    tokens = [token for part in parts for token in part]
    targets = [flag for part, flag in zip(parts, learned, strict=True) for _ in part]
    return _truncated(where, tokens, targets, config)


def _encode_pieces(
    texts: Sequence[str], encode: Callable[[str], list[int]], encode_more: Callable[[str], list[int]]
) -> list[list[int]]:
    """The tokens of a text, cut where its pieces end.

    Where a token would reach over such an end, each piece is encoded by itself: so a model that is asked sees it too.
    """
    whole = encode("".join(texts))
    ends = [0]
    for n in range(1, len(texts)):
        prefix = encode("".join(texts[:n]))
        if whole[: len(prefix)] != prefix:
            return [encode(texts[0]), *map(encode_more, texts[1:])]
        ends.append(len(prefix))
    return [whole[start:end] for start, end in zip(ends, [*ends[1:], len(whole)], strict=True)]


def _truncated(where: str, tokens: list[int], targets: list[bool], config: InstructionConfig) -> list[Example] | Skip:
    length = config.max_length
    if len(tokens) > length and config.truncation == "error":
        raise UserError(f"{where}: {len(tokens)} tokens, but max_length is {length}; raise it, or truncate")
    if len(tokens) > length and config.truncation == "skip":
        return Skip.TOO_LONG
    kept = slice(-length, None) if config.truncation == "start" else slice(length)
    example = _example(tokens[kept], targets[kept])
    return [example] if example.targets.any() else Skip.NO_TARGET


def _example(tokens: Sequence[int], targets: Sequence[bool]) -> Example:
    flags = np.array(targets[: len(tokens)], np.bool_)
    flags[:1] = False  # nothing comes before it that it could be predicted from
    return Example(np.array(tokens, np.int32), flags)
