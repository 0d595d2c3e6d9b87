"""Prompts of a data set as problems, with reference answers or without: what rewards and reward models judge.

A record's prompt is a text (the user's turn), a list of messages whose last is the user's, or a dialogue of the form
"\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's hh-rlhf), of which all before the last assistant's turn is taken.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from lqlm.errors import UserError
from lqlm.tasks.base import AnswerFormat, Item, Task, last_number, only_number
from lqlm.tasks.pair_texts import turns
from lqlm.tasks.records import Message, messages_of, text_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Whose prompts, and what is a right answer to them.

    Attributes:
        source: a .jsonl or .json file (each also .gz), a directory, or a data set of ``datasets``.
        split, subset: of a data set that ``datasets`` reads.
        limit: records that are read, at most (0: all).
        heldout: prompts held out; a hash of their text decides which, whatever the seed.
        prompt: name of the field; ``chosen`` takes the prompts of pairs of dialogues.
        answer: name of the field with the reference answer; records may lack it.
        answer_format: the strict format of answers, a value of `AnswerFormat`.
        system: system prompt of conversations that have none.
    """

    source: str
    split: str = "train"
    subset: str | None = None
    limit: int = 0
    heldout: int = 64
    prompt: str = "prompt"
    answer: str = "answer"
    answer_format: str = "number"
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.source or self.limit < 0 or self.heldout < 1:
            raise UserError(
                f"prompts task: source={self.source!r}, limit={self.limit}, heldout={self.heldout}; name a file or a "
                "data set, give limit 0 or more, and heldout 1 or more"
            )
        if self.answer_format not in list(AnswerFormat):
            raise UserError(
                f"prompts task: answer_format={self.answer_format!r} is unknown; use one of {', '.join(AnswerFormat)}"
            )


def prompts_task(config: PromptsConfig, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Task:
    """Different prompts as training and held-out items.

    The strict answer is what stands where the format wants it, the lenient one the last number where all answers are
    numbers, else the same as the strict one, or the last line.

    Args:
        config: names of the fields, and the split.
        records: pairs of a place, for error messages, and fields; `lqlm.io.datasets.records` gives them.

    Raises:
        UserError: naming the record and the field that cannot be used, or when no prompt is left to learn from.

    >>> rows = [("row 1", {"prompt": "2 + 2?", "answer": 4}), ("row 2", {"prompt": "Greet me."})]
    >>> task = prompts_task(PromptsConfig(source="rows", heldout=1), rows)
    >>> sorted((item.question, item.answer) for item in (*task.train, *task.heldout))
    [('2 + 2?', '4'), ('Greet me.', '')]
    """
    found: dict[Any, Item] = {}
    for where, fields in records:
        item = _item(where, fields, config, len(found))
        found.setdefault((item.question, item.before), item)
    order = sorted(found.values(), key=_digest)
    if len(order) <= config.heldout:
        raise UserError(
            f"prompts task: {config.source} has {len(order)} different prompts, {config.heldout} to hold out; at least "
            "one must be left to learn from"
        )
    form = AnswerFormat(config.answer_format)
    numeric = all(only_number(item.answer) is not None for item in order if item.answer)
    held = {item.id for item in order[: config.heldout]}
    return Task(
        name="prompts",
        train=[item for item in found.values() if item.id not in held],
        heldout=[item for item in found.values() if item.id in held],
        strict=form.inner,
        lenient=last_number if numeric else lambda text: _last(form, text),
        system=config.system,
    )


def _last(form: AnswerFormat, text: str) -> str | None:
    lines = text.strip().splitlines()
    inner = form.inner(text) if form is not AnswerFormat.NUMBER else None
    return (lines[-1].strip() if lines else None) if inner is None else inner


def _digest(item: Item) -> bytes:
    return hashlib.blake2b(repr((item.question, item.before)).encode(), digest_size=16).digest()


def _item(where: str, fields: Mapping[str, Any], config: PromptsConfig, number: int) -> Item:
    if config.prompt not in fields:
        known = ", ".join(map(str, fields)) or "none"
        raise UserError(
            f'{where}: no field "{config.prompt}" (fields: {known}); add it, or name another in task.prompt'
        )
    *before, last = _conversation(where, fields, config.prompt)
    if last["role"] != "user" or not last["content"].strip():
        raise UserError(f'{where}: the field "{config.prompt}" does not end with words of the user; mend the record')
    answer = fields.get(config.answer)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        kind = type(answer).__name__
        raise UserError(f'{where}: the field "{config.answer}" holds {kind}; write a text or a number, or leave it out')
    told = "" if answer is None else str(answer)
    return Item(last["content"], told, f"prompts/{number}", before=tuple((m["role"], m["content"]) for m in before))


def _conversation(where: str, fields: Mapping[str, Any], name: str) -> list[Message]:
    """The turns of a prompt, the last assistant's turn and what follows it left out where there is one at the end."""
    if isinstance(fields[name], list):
        found = messages_of(where, fields, name)
    else:
        text = text_of(where, fields, name)
        found = turns(text) or [{"role": "user", "content": text}]
    return found[:-1] if len(found) > 1 and found[-1]["role"] == "assistant" else found
