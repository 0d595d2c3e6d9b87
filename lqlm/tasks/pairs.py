"""Pairs of preferences: from records (see `lqlm.tasks.pair_texts` for their forms) to tokens.

A record may have a "margin": by how much the chosen completion is better.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from lqlm.errors import UserError
from lqlm.tasks.instructions import Tokenizer
from lqlm.tasks.pair_texts import EQUAL, Fields, Left, Unusable, texts_of

MARGIN = "margin"
Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """How records become pairs.

    Attributes:
        max_prompt: tokens of a prompt.
        max_completion: tokens of a completion, its end token included.
        too_long: what is done with longer ones: "cut" (a prompt loses its beginning, a completion its end), "skip", or
            "error".
        unusable: a record without a field, with an empty completion or with equal sides is an "error", or is left out
            and counted ("skip").
        prompt, chosen, rejected: names of the fields.
    """

    max_prompt: int = 256
    max_completion: int = 128
    too_long: Literal["cut", "skip", "error"] = "skip"
    unusable: Literal["error", "skip"] = "error"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def __post_init__(self) -> None:
        if self.max_prompt < 1 or self.max_completion < 1:
            raise UserError(
                f"pairs: max_prompt={self.max_prompt}, max_completion={self.max_completion}; both must be 1 or more"
            )
        if self.too_long not in ("cut", "skip", "error") or self.unusable not in ("error", "skip"):
            raise UserError(
                f"pairs: too_long={self.too_long!r}, unusable={self.unusable!r}; known are cut, skip and error, "
                "and error and skip"
            )


class Pair(NamedTuple):
    """One prompt and two completions, as tokens and as text."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float
    texts: tuple[str, str, str]  # of prompt, chosen and rejected, as the tokenizer saw them

    @property
    def sides(self) -> tuple[list[int], ...]:
        """Its completions, in the order of a batch."""
        return (self.chosen, self.rejected)

    @property
    def number(self) -> float:
        """What a batch tells of it: the margin."""
        return self.margin


class Pairs(NamedTuple):
    """The pairs of all records, and how many were left out for which reason."""

    pairs: list[Pair]
    skipped: dict[str, int]


def read_pairs(records: Iterable[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, config: PairConfig) -> Pairs:
    """The pairs of all records.

    Args:
        records: pairs of a place, for error messages, and fields; `lqlm.io.datasets.records` gives them.
        tokenizer: of the model.
        config: how records become pairs.

    Raises:
        UserError: naming the record and what is wrong with it, unless it is to be skipped; or when no pair is left.
    """
    return Pairs(*usable(records, lambda where, fields: _pair(where, fields, tokenizer, config), config, "pair"))


class Limits(Protocol):
    """What is done with records that give nothing."""

    @property
    def max_prompt(self) -> int:
        """Tokens of a prompt."""

    @property
    def max_completion(self) -> int:
        """Tokens of a completion, its end token included."""

    @property
    def too_long(self) -> Literal["cut", "skip", "error"]:
        """Of longer ones."""

    @property
    def unusable(self) -> Literal["error", "skip"]:
        """Of all others."""


def usable(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    read: Callable[[str, Mapping[str, Any]], Row],
    limits: Limits,
    what: str,
) -> tuple[list[Row], dict[str, int]]:
    """What all records give, and how many were left out for which reason.

    Args:
        records: pairs of a place, for error messages, and fields.
        read: ``(place, fields) -> row``; raises `Left`.
        limits: whether what is left is skipped.
        what: a row, in the words of an error.

    Raises:
        UserError: naming the record and what is wrong with it, unless it is to be skipped; or when no row is left.
    """
    found: list[Row] = []
    skipped: Counter[str] = Counter()
    where = "data"
    for where, fields in records:
        try:
            found.append(read(where, fields))
        except Left as left:
            allowed = limits.too_long if left.reason is Unusable.TOO_LONG else limits.unusable
            if allowed != "skip":
                raise UserError(f"{where}: {left}") from None
            skipped[str(left.reason)] += 1
    if not found:
        reasons = "; ".join(f"{reason}: {n}" for reason, n in skipped.items()) or "no records"
        raise UserError(
            f"{where} and all before it: no {what} to learn from ({reasons}); check the data and its limits"
        )
    return found, dict(skipped)


def _pair(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: PairConfig) -> Pair:
    texts = texts_of(where, fields, Fields(config.prompt, config.chosen, config.rejected), tokenizer)
    prompt, (chosen, rejected) = encoded(texts.prompt, texts[1:3], texts.templated, tokenizer, config)
    if chosen == rejected:
        raise Left(Unusable.EQUAL, EQUAL)
    return Pair(prompt, chosen, rejected, number_of(where, fields, MARGIN, 0.0), texts[:3])


def encoded(
    prompt: str, completions: Sequence[str], templated: bool, tokenizer: Tokenizer, limits: Limits
) -> tuple[list[int], list[list[int]]]:
    """Tokens of a prompt and of its completions, each of which ends with an end token.

    Raises:
        Left: for an empty prompt, or what is longer than the limits.
    """
    first = (tokenizer.encode_more if templated else tokenizer.encode)(prompt)
    rest = [_ended(tokenizer.encode_more(text), tokenizer) for text in completions]
    if limits.too_long == "cut":
        first, rest = first[-limits.max_prompt :], [row[: limits.max_completion] for row in rest]
    longest = max(map(len, rest))
    if len(first) > limits.max_prompt or longest > limits.max_completion:
        raise Left(
            Unusable.TOO_LONG,
            f"{len(first)} tokens of prompt and {longest} of completion, but max_prompt is {limits.max_prompt} and "
            f"max_completion {limits.max_completion}; raise them, or set too_long to cut or skip",
        )
    if not first:
        raise Left(Unusable.NO_PROMPT, "the prompt has no token; write one, or remove the record")
    return first, rest


def _ended(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """A completion up to its last end token: a template may write a line break after it, a sampler stops there."""
    ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_ids]
    return tokens[: ends[-1] + 1] if ends else [*tokens, tokenizer.eos_ids[0]]


def number_of(where: str, fields: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number of a record, or what stands for none."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(f'{where}: the field "{name}" is {value!r}; write a finite number, or leave it out')
    return float(value)
