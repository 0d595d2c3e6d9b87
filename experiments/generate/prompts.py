"""Prompts from a JSONL file, and completions into one: lines in, lines out, in the order in which they are done."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from lqlm.errors import UserError
from lqlm.generation.requests import Request
from lqlm.generation.rollout import check_context
from lqlm.io.load import LoadedModel
from lqlm.io.tokenizer import Tokenizer

FIELDS = ("id", "prompt", "messages", "max_new_tokens")
"""What lqlm reads of a line; all else is copied to the output."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A line of the input: its request, and its fields, which the output repeats."""

    request: Request
    fields: Mapping[str, Any]


def read_prompts(path: str, model: LoadedModel, system: str, new_tokens: int) -> Iterator[Prompt]:
    """The prompts of a file, one at a time.

    A line is an object with ``prompt``, plain text that the model continues, or with ``messages``, a conversation to
    be answered; maybe with an ``id`` (else the line's number) and ``max_new_tokens``.

    Args:
        path: of a JSONL file.
        model: for its tokenizer and context.
        system: system message of conversations without one; empty: none.
        new_tokens: the most that a completion may have.

    Raises:
        UserError: for a file that cannot be read, or a line that is no prompt; it names file and line.
    """
    seen: set[str] = set()
    for number, line in _lines(path):
        where = f"{path}:{number}"
        fields = _parse(line, where)
        request = _request(fields, number, model.tokenizer, system, where)
        if request.id in seen:
            raise UserError(f"{where}: id {request.id!r} occurs twice; give every line its own, or none")
        limit = request.max_new_tokens or new_tokens
        if limit > new_tokens:
            raise UserError(f"{where}: max_new_tokens is {limit}; raise sampling.max_new_tokens ({new_tokens}) to it")
        check_context(len(request.tokens), limit, model.config.max_positions, where)
        seen.add(request.id)
        yield Prompt(request, fields)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with pathlib.Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; give a JSONL file in UTF-8") from error


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error}); a line is one object with prompt or messages") from error
    if not isinstance(fields, dict) or ("prompt" in fields) == ("messages" in fields):
        raise UserError(f"{where}: a line is one object with either prompt (text) or messages (a conversation)")
    limit = fields.get("max_new_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise UserError(f"{where}: max_new_tokens is {limit!r}; it must be a whole number, 1 or more")
    return fields


def _request(fields: Mapping[str, Any], number: int, tokenizer: Tokenizer, system: str, where: str) -> Request:
    name = str(fields.get("id", number))
    if "prompt" in fields:
        if not isinstance(fields["prompt"], str) or not fields["prompt"]:
            raise UserError(f"{where}: prompt is {fields['prompt']!r}; it must be a text, and not empty")
        tokens = tokenizer.encode(fields["prompt"])
    else:
        tokens = tokenizer.chat(conversation(fields["messages"], system, where))
    return Request(name, tuple(tokens), fields.get("max_new_tokens"), number)


def conversation(messages: Any, system: str, where: str) -> list[dict[str, str]]:
    """Checked messages, with the system message before them if they have none.

    >>> conversation([{"role": "user", "content": "Hi"}], "Be brief.", "line 1")[0]
    {'role': 'system', 'content': 'Be brief.'}
    """
    right = isinstance(messages, Sequence) and not isinstance(messages, str) and bool(messages)
    if not right or not all(_is_message(message) for message in messages):
        raise UserError(f"{where}: messages must be a list of objects with role and content, both texts")
    own = any(message["role"] == "system" for message in messages)
    return [*([{"role": "system", "content": system}] if system and not own else []), *map(dict, messages)]


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def finished(path: str) -> set[str]:
    """Ids of the completions that a file holds already; a last line that was cut off is taken out of it."""
    file = pathlib.Path(path)
    if not file.exists():
        return set()
    whole = file.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        os.truncate(file, len(kept))
    try:
        return {json.loads(line)["id"] for line in kept.decode().splitlines()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: holds something else than completions; give another output") from error


def write_line(file: TextIO, fields: Mapping[str, Any], name: str, completions: Sequence[Mapping[str, Any]]) -> None:
    """One prompt's completions, beside whatever its line held, on the disk when this returns."""
    record = {**fields, "id": name, "completions": list(completions)}
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
