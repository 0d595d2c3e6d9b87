"""Pairs of preferences: from records of several forms to tokens.

====== ===============================================================================================================
plain  "prompt", "chosen" and "rejected" are texts, taken as they stand, without a template
chat   all three are lists of messages; or "chosen" and "rejected" are whole conversations, whose shared beginning, up
       to an assistant's turn, is the prompt
turns  "chosen" and "rejected" are texts of the form "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's hh-rlhf); the
       prompt is the longest beginning of whole turns that both share, up to an assistant's turn
====== ===============================================================================================================

Conversations and turns are written in the tokenizer's chat template; without one, turns stand as they are and a
conversation is refused.  A record may have a "margin": by how much the chosen completion is better.
"""

import dataclasses
import enum
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from lqlm.errors import UserError
from lqlm.tasks.instructions import Tokenizer
from lqlm.tasks.records import Message, messages_of, text_of

MARGIN = "margin"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_EMPTY = "the {} completion is empty; mend the record, or set unusable to skip"
_EQUAL = "both completions are the same; remove the record, or set unusable to skip"
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Unusable(enum.StrEnum):
    """Why a record gives no pair."""

    MISSING = "a field is missing"
    EMPTY = "an empty completion"
    EQUAL = "both completions are the same"
    NO_PROMPT = "no shared prompt"
    TOO_LONG = "longer than allowed"


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


class Texts(NamedTuple):
    """A record as text; completions go on where the prompt ends."""

    prompt: str
    chosen: str
    rejected: str
    templated: bool  # whether a chat template has written the special tokens


class Pairs(NamedTuple):
    """The pairs of all records, and how many were left out for which reason."""

    pairs: list[Pair]
    skipped: dict[str, int]


class _Left(Exception):
    """A record gives no pair: for this reason, told so."""

    def __init__(self, reason: Unusable, told: str):
        super().__init__(told)
        self.reason = reason


def read_pairs(records: Iterable[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, config: PairConfig) -> Pairs:
    """The pairs of all records.

    Args:
        records: pairs of a place, for error messages, and fields; `lqlm.io.datasets.records` gives them.
        tokenizer: of the model.
        config: how records become pairs.

    Raises:
        UserError: naming the record and what is wrong with it, unless it is to be skipped; or when no pair is left.
    """
    found: list[Pair] = []
    skipped: Counter[str] = Counter()
    where = "data"
    for where, fields in records:
        try:
            found.append(_pair(where, fields, tokenizer, config))
        except _Left as left:
            allowed = config.too_long if left.reason is Unusable.TOO_LONG else config.unusable
            if allowed != "skip":
                raise UserError(f"{where}: {left}") from None
            skipped[str(left.reason)] += 1
    if not found:
        reasons = "; ".join(f"{reason}: {n}" for reason, n in skipped.items()) or "no records"
        raise UserError(f"{where} and all before it: no pair to learn from ({reasons}); check the data and its limits")
    return Pairs(found, dict(skipped))


def _pair(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: PairConfig) -> Pair:
    texts = _texts(where, fields, tokenizer, config)
    prompt = (tokenizer.encode_more if texts.templated else tokenizer.encode)(texts.prompt)
    chosen, rejected = (_ended(tokenizer.encode_more(text), tokenizer) for text in (texts.chosen, texts.rejected))
    if config.too_long == "cut":
        prompt = prompt[-config.max_prompt :]
        chosen, rejected = chosen[: config.max_completion], rejected[: config.max_completion]
    longest = max(len(chosen), len(rejected))
    if len(prompt) > config.max_prompt or longest > config.max_completion:
        raise _Left(
            Unusable.TOO_LONG,
            f"{len(prompt)} tokens of prompt and {longest} of completion, but max_prompt is {config.max_prompt} and "
            f"max_completion {config.max_completion}; raise them, or set too_long to cut or skip",
        )
    if not prompt:
        raise _Left(Unusable.NO_PROMPT, "the prompt has no token; write one, or remove the record")
    if chosen == rejected:
        raise _Left(Unusable.EQUAL, _EQUAL)
    return Pair(prompt, chosen, rejected, _margin(where, fields), texts[:3])


def _ended(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """A completion up to its last end token: a template may write a line break after it, a sampler stops there."""
    ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_ids]
    return tokens[: ends[-1] + 1] if ends else [*tokens, tokenizer.eos_ids[0]]


def _margin(where: str, fields: Mapping[str, Any]) -> float:
    value = fields.get(MARGIN, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(f'{where}: the field "{MARGIN}" is {value!r}; write a finite number, or leave it out')
    return float(value)


def _texts(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: PairConfig) -> Texts:
    sides = (config.chosen, config.rejected)
    missing = [f'"{name}"' for name in sides if name not in fields]
    if missing:
        known = ", ".join(map(str, fields)) or "none"
        raise _Left(Unusable.MISSING, f"no field {' and '.join(missing)} (fields: {known}); add it, or name another")
    if any(isinstance(fields[name], list) for name in sides):
        return _chat(where, fields, tokenizer, config)
    chosen, rejected = (text_of(where, fields, name) for name in sides)
    if config.prompt in fields:
        _check_sides(chosen, rejected)
        return Texts(text_of(where, fields, config.prompt), chosen, rejected, templated=False)
    return _turns(chosen, rejected, tokenizer)


def _check_sides(chosen: str, rejected: str) -> None:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise _Left(Unusable.EMPTY, _EMPTY.format(name))
    if chosen == rejected:
        raise _Left(Unusable.EQUAL, _EQUAL)


def _check_last(chosen: Sequence[Message], rejected: Sequence[Message]) -> None:
    """The same of conversations, of which only the last message must say something."""
    if list(chosen) == list(rejected):
        raise _Left(Unusable.EQUAL, _EQUAL)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side[-1]["content"].strip():
            raise _Left(Unusable.EMPTY, _EMPTY.format(name))


def turns(text: str) -> list[Message] | None:
    """A text of the form "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages; None for any other.

    >>> turns("\\n\\nHuman: Hi!\\n\\nAssistant: Hello.")
    [{'role': 'user', 'content': 'Hi!'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        return None
    return [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def _turns(chosen: str, rejected: str, tokenizer: Tokenizer) -> Texts:
    """Two whole dialogues as a shared prompt and two completions."""
    one, other = turns(chosen), turns(rejected)
    if one is None or other is None:
        raise _Left(
            Unusable.MISSING,
            'no field "prompt", and chosen and rejected are no dialogues of the form "\\n\\nHuman: ... '
            '\\n\\nAssistant: ..."; add it, or name another',
        )
    at = _shared(one, other)
    if tokenizer.has_chat_template:
        return _written(one[:at], one[at:], other[at:], tokenizer)
    _check_last(one[at:], other[at:])
    label = "\n\nAssistant:"
    chosen, rejected = (_as_turns(side).removeprefix(label) for side in (one[at:], other[at:]))
    return Texts(_as_turns(one[:at]) + label, chosen, rejected, templated=False)


def _as_turns(messages: Sequence[Message]) -> str:
    names = {role: name for name, role in _ROLES.items()}
    return "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in messages)


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """Messages of the prompt: the longest shared beginning after which both have an assistant's turn."""
    if one == other:
        raise _Left(Unusable.EQUAL, _EQUAL)
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    for at in range(same, 0, -1):
        if all(len(side) > at and side[at]["role"] == "assistant" for side in (one, other)):
            return at
    raise _Left(
        Unusable.NO_PROMPT,
        "chosen and rejected share no beginning up to an assistant's turn; mend the record, or set unusable to skip",
    )


def _chat(where: str, fields: Mapping[str, Any], tokenizer: Tokenizer, config: PairConfig) -> Texts:
    if not tokenizer.has_chat_template:
        raise UserError(f"{where}: a conversation, but the model has no chat template; give plain texts")
    chosen, rejected = (messages_of(where, fields, name) for name in (config.chosen, config.rejected))
    if config.prompt in fields:
        return _written(messages_of(where, fields, config.prompt), chosen, rejected, tokenizer)
    at = _shared(chosen, rejected)
    return _written(chosen[:at], chosen[at:], rejected[at:], tokenizer)


def _written(
    prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message], tokenizer: Tokenizer
) -> Texts:
    """Messages in the chat template; both completions begin after the opening of the assistant's turn."""
    _check_last(chosen, rejected)
    question = tokenizer.render(prompt, True)
    wholes = [tokenizer.render([*prompt, *side], False) for side in (chosen, rejected)]
    if not all(whole.startswith(question) for whole in wholes):
        raise _Left(
            Unusable.NO_PROMPT,
            "the chat template writes the prompt in another way when a completion follows; use another template",
        )
    chosen_text, rejected_text = (whole[len(question) :] for whole in wholes)
    return Texts(question, chosen_text, rejected_text, templated=True)
