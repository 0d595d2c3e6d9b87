"""Single completions with a score: from records to tokens, for a reward model by classification or regression.

A record has a "prompt", a "completion" (two texts, or two lists of messages) and a "score": a finite number, or true
and false, which are 1 and 0.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from lqlm.errors import UserError
from lqlm.tasks.instructions import Tokenizer
from lqlm.tasks.pair_texts import Left, Unusable, completed
from lqlm.tasks.pairs import encoded, number_of, usable


@dataclasses.dataclass(frozen=True)
class ScoredConfig:
    """How records become scored completions.

    Attributes:
        max_prompt: tokens of a prompt.
        max_completion: tokens of a completion, its end token included.
        too_long: what is done with longer ones: "cut" (a prompt loses its beginning, a completion its end), "skip", or
            "error".
        unusable: a record without a field or with an empty completion is an "error", or is left out and counted
            ("skip").
        prompt, completion, score: names of the fields.
    """

    kind: ClassVar[str] = "scored"

    max_prompt: int = 256
    max_completion: int = 128
    too_long: Literal["cut", "skip", "error"] = "skip"
    unusable: Literal["error", "skip"] = "error"
    prompt: str = "prompt"
    completion: str = "completion"
    score: str = "score"

    def __post_init__(self) -> None:
        if self.max_prompt < 1 or self.max_completion < 1:
            raise UserError(
                f"scored texts: max_prompt={self.max_prompt}, max_completion={self.max_completion}; both must be 1 or "
                "more"
            )


class Scored(NamedTuple):
    """A prompt and a completion, as tokens and as text, and the number that it should get."""

    prompt: list[int]
    completion: list[int]
    score: float
    texts: tuple[str, str]

    @property
    def sides(self) -> tuple[list[int], ...]:
        """Its completions, in the order of a batch."""
        return (self.completion,)

    @property
    def number(self) -> float:
        """What a batch tells of it: the score."""
        return self.score


def read_scored(
    records: Iterable[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, config: ScoredConfig
) -> tuple[list[Scored], dict[str, int]]:
    """The scored completions of all records, and how many records were left out for which reason.

    Args:
        records: pairs of a place, for error messages, and fields; `lqlm.io.datasets.records` gives them.
        tokenizer: of the model.
        config: how records become scored completions.

    Raises:
        UserError: naming the record and what is wrong with it, unless it is to be skipped; or when none is left.
    """
    return usable(records, lambda where, fields: _scored(where, fields, tokenizer, config), config, "scored text")


def _scored(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: ScoredConfig) -> Scored:
    if fields.get(config.score) is None:
        known = ", ".join(map(str, fields)) or "none"
        raise Left(Unusable.MISSING, f'no number in the field "{config.score}" (fields: {known}); add it')
    prompt, completion, templated = completed(where, fields, config.prompt, config.completion, tokenizer)
    first, (rest,) = encoded(prompt, [completion], templated, tokenizer, config)
    value = fields[config.score]
    number = float(value) if isinstance(value, bool) else number_of(where, fields, config.score, 0.0)
    return Scored(first, rest, number, (prompt, completion))
