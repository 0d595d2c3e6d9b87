"""Records of preferences as text: a prompt, and two completions that go on where it ends.

====== ===============================================================================================================
plain  "prompt", "chosen" and "rejected" are texts, taken as they stand, without a template
chat   all three are lists of messages; or "chosen" and "rejected" are whole conversations, whose shared beginning, up
       to an assistant's turn, is the prompt
turns  "chosen" and "rejected" are texts of the form "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's hh-rlhf); the
       prompt is the longest beginning of whole turns that both share, up to an assistant's turn
====== ===============================================================================================================

Conversations and turns are written in the tokenizer's chat template; without one, turns stand as they are and a
conversation is refused.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lqlm.errors import UserError
from lqlm.tasks.instructions import Tokenizer
from lqlm.tasks.records import Message, messages_of, text_of

EQUAL = "both completions are the same; remove the record, or set unusable to skip"
_EMPTY = "the {} completion is empty; mend the record, or set unusable to skip"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Unusable(enum.StrEnum):
    """Why a record gives no pair."""

    MISSING = "a field is missing"
    EMPTY = "an empty completion"
    EQUAL = "both completions are the same"
    NO_PROMPT = "no shared prompt"
    TOO_LONG = "longer than allowed"


class Left(Exception):
    """A record gives no pair: for this reason, told so."""

    def __init__(self, reason: Unusable, told: str):
        super().__init__(told)
        self.reason = reason


class Fields(NamedTuple):
    """Names of a record's fields."""

    prompt: str
    chosen: str
    rejected: str


class Texts(NamedTuple):
    """A record as text; completions go on where the prompt ends."""

    prompt: str
    chosen: str
    rejected: str
    templated: bool  # whether a chat template has written the special tokens


def texts_of(where: str, fields: Mapping[str, Any], names: Fields, tokenizer: Tokenizer) -> Texts:
    """A record as text.

    Args:
        where: its place, for error messages.
        fields: of the record.
        names: of those that are read.
        tokenizer: for its chat template.

    Raises:
        Left: when the record gives no pair.
        UserError: when a field is not of the form that it must have.
    """
    sides = (names.chosen, names.rejected)
    missing = [f'"{name}"' for name in sides if name not in fields]
    if missing:
        known = ", ".join(map(str, fields)) or "none"
        raise Left(Unusable.MISSING, f"no field {' and '.join(missing)} (fields: {known}); add it, or name another")
    if any(isinstance(fields[name], list) for name in sides):
        return _chat(where, fields, names, tokenizer)
    chosen, rejected = (text_of(where, fields, name) for name in sides)
    if names.prompt in fields:
        _check_sides(chosen, rejected)
        return Texts(text_of(where, fields, names.prompt), chosen, rejected, templated=False)
    return _turns(chosen, rejected, tokenizer)


def completed(
    where: str, fields: Mapping[str, Any], prompt: str, completion: str, tokenizer: Tokenizer
) -> tuple[str, str, bool]:
    """A prompt, its only completion, and whether a chat template has written them.

    Args:
        where: its place, for error messages.
        fields: of the record.
        prompt, completion: names of those that are read: two texts, or two lists of messages.
        tokenizer: for its chat template.

    Raises:
        Left: when the record lacks one of them, or the completion is empty.
        UserError: when a field is not of the form that it must have.
    """
    if missing := [f'"{name}"' for name in (prompt, completion) if name not in fields]:
        known = ", ".join(map(str, fields)) or "none"
        raise Left(Unusable.MISSING, f"no field {' and '.join(missing)} (fields: {known}); add it, or name another")
    if isinstance(fields[completion], list):
        _check_template(where, tokenizer)
        asked, answer = (messages_of(where, fields, name) for name in (prompt, completion))
        _check_said("only", answer[-1]["content"])
        question, (text,) = _rendered(asked, [answer], tokenizer)
        return question, text, True
    _check_said("only", text_of(where, fields, completion))
    return text_of(where, fields, prompt), text_of(where, fields, completion), False


def _check_said(name: str, text: str) -> None:
    if not text.strip():
        raise Left(Unusable.EMPTY, _EMPTY.format(name))


def _check_template(where: str, tokenizer: Tokenizer) -> None:
    if not tokenizer.has_chat_template:
        raise UserError(f"{where}: a conversation, but the model has no chat template; give plain texts")


def _check_sides(chosen: str, rejected: str) -> None:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        _check_said(name, text)
    if chosen == rejected:
        raise Left(Unusable.EQUAL, EQUAL)


def _check_last(chosen: Sequence[Message], rejected: Sequence[Message]) -> None:
    """The same of conversations, of which only the last message must say something."""
    if list(chosen) == list(rejected):
        raise Left(Unusable.EQUAL, EQUAL)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        _check_said(name, side[-1]["content"])


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
        raise Left(
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
        raise Left(Unusable.EQUAL, EQUAL)
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    for at in range(same, 0, -1):
        if all(len(side) > at and side[at]["role"] == "assistant" for side in (one, other)):
            return at
    raise Left(
        Unusable.NO_PROMPT,
        "chosen and rejected share no beginning up to an assistant's turn; mend the record, or set unusable to skip",
    )


def _chat(where: str, fields: Mapping[str, Any], names: Fields, tokenizer: Tokenizer) -> Texts:
    _check_template(where, tokenizer)
    chosen, rejected = (messages_of(where, fields, name) for name in (names.chosen, names.rejected))
    if names.prompt in fields:
        return _written(messages_of(where, fields, names.prompt), chosen, rejected, tokenizer)
    at = _shared(chosen, rejected)
    return _written(chosen[:at], chosen[at:], rejected[at:], tokenizer)


def _written(
    prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message], tokenizer: Tokenizer
) -> Texts:
    """Messages in the chat template."""
    _check_last(chosen, rejected)
    question, (one, other) = _rendered(prompt, [chosen, rejected], tokenizer)
    return Texts(question, one, other, templated=True)


def _rendered(
    prompt: Sequence[Message], sides: Sequence[Sequence[Message]], tokenizer: Tokenizer
) -> tuple[str, list[str]]:
    """A prompt and its completions, which begin after the opening of the assistant's turn."""
    question = tokenizer.render(prompt, True)
    wholes = [tokenizer.render([*prompt, *side], False) for side in sides]
    if not all(whole.startswith(question) for whole in wholes):
        raise Left(
            Unusable.NO_PROMPT,
            "the chat template writes the prompt in another way when a completion follows; use another template",
        )
    return question, [whole[len(question) :] for whole in wholes]
