"""Forms of a record in instruction tuning, and the text that each becomes: pieces to learn, and pieces between them.

=========== ==============================================================================================
messages    a conversation ``[{"role": "user", "content": ...}, ...]``, written in the chat template; the
            assistant's turns are learned
completion  ``prompt`` and ``completion``: plain text as it stands, no template, or two parts of a
            conversation; the completion is learned
instruction ``instruction``, maybe ``input``, and ``output`` (Alpaca); or, instead of the last two,
            ``instances``: a list of them (Self-Instruct), each an example of its own
text        a document; every token but its first is learned
=========== ==============================================================================================

An instruction becomes a conversation of two turns, the input after a blank line below the instruction; a tokenizer
without a chat template writes it as Alpaca did (:func:`alpaca_prompt`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from lqlm.errors import UserError

Message = Mapping[str, str]
Fields = Mapping[str, Any]
Form = Literal["messages", "completion", "instruction", "text"]
FORMS: tuple[Form, ...] = ("messages", "completion", "instruction", "text")
TRUNCATIONS = ("end", "start", "skip", "error")
INSTANCES = "instances"
_BEGINNING = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
PREAMBLE = f"{_BEGINNING}. {_REQUEST}"
PREAMBLE_INPUT = f"{_BEGINNING}, paired with an input that provides further context. {_REQUEST}"


@dataclasses.dataclass(frozen=True)
class InstructionConfig:
    """How records become examples.

    Attributes:
        form: of the records; "auto" tells it by their fields: the first form of the table that has all of its own.
        max_length: tokens of an example.
        completion_only: whether only completions are learned, or every token but the first.
        truncation: of an example with a completion that is longer: its "end" is cut off (the end token with it), or
            its "start", or it is left out ("skip"), or it is an "error".  Texts are never truncated but cut into
            pieces that overlap by one token, so that each token is learned exactly once.
        system: system prompt, for conversations without one; in Alpaca's format it replaces the preamble.  Documents
            have none, and plain prompts refuse it.
        messages, prompt, completion, instruction, input, output, text: names of the fields.
    """

    form: Literal["auto", "messages", "completion", "instruction", "text"] = "auto"
    max_length: int = 1024
    completion_only: bool = True
    truncation: Literal["end", "start", "skip", "error"] = "end"
    system: str | None = None
    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    text: str = "text"

    def __post_init__(self) -> None:
        if self.form not in ("auto", *FORMS):
            raise UserError(f"instructions: form={self.form!r}; known are auto, {', '.join(FORMS)}")
        if self.truncation not in TRUNCATIONS:
            raise UserError(f"instructions: truncation={self.truncation!r}; known are {', '.join(TRUNCATIONS)}")
        if self.max_length < 2:
            raise UserError(f"instructions: max_length={self.max_length}; a token and one to predict need 2 or more")

    def required(self, form: Form) -> tuple[str, ...]:
        """Names of the fields that a record of this form must have."""
        return {
            "messages": (self.messages,),
            "completion": (self.prompt, self.completion),
            "instruction": (self.instruction, self.output),
            "text": (self.text,),
        }[form]


class Renderer(Protocol):
    """What the text of a record needs of a tokenizer."""

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`render` works."""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """A conversation as text."""


class Piece(NamedTuple):
    """A stretch of text, and whether it is to be learned."""

    text: str
    learned: bool


class Written(NamedTuple):
    """A record as text.

    Attributes:
        pieces: none of them empty; none at all when there is nothing to learn.
        question: what stands before the last completion, as a model would be asked.
        reference: the last completion.
        templated: whether a chat template wrote it, and with it every special token.
    """

    pieces: tuple[Piece, ...]
    question: str
    reference: str
    templated: bool


def instances(where: str, fields: Fields, config: InstructionConfig) -> list[tuple[str, Fields]]:
    """The record itself, or one for each of its instances, each with the instruction of all of them.

    >>> [fields["output"] for _, fields in instances("r", {"instruction": "Sort.", "instances": [
    ...     {"input": "2 1", "output": "1 2"}, {"input": "3 1", "output": "1 3"}]}, InstructionConfig())]
    ['1 2', '1 3']
    """
    several = fields.get(INSTANCES)
    if config.form not in ("auto", "instruction") or config.instruction not in fields or several is None:
        return [(where, fields)]
    if not isinstance(several, list) or not several or not all(isinstance(one, Mapping) for one in several):
        raise UserError(f'{where}: the field "{INSTANCES}" is no list of records with input and output; mend it')
    shared = {config.instruction: fields[config.instruction]}
    return [(f"{where}, instance {i}", {**one, **shared}) for i, one in enumerate(several)]


def form_of(where: str, fields: Fields, config: InstructionConfig) -> Form:
    """The form that the config names or the fields tell.

    Raises:
        UserError: naming the missing fields.
    """
    having = [form for form in FORMS if set(config.required(form)) <= fields.keys()]
    begun = [form for form in FORMS if set(config.required(form)) & fields.keys()]
    form = config.form if config.form != "auto" else next(iter(having or begun), None)
    found = ", ".join(map(str, fields)) or "none"
    if form is None:
        known = "; ".join(" and ".join(config.required(form)) for form in FORMS)
        raise UserError(f"{where}: no form of record has its fields ({found}); the forms are: {known}")
    missing = [f'"{name}"' for name in config.required(form) if name not in fields]
    if missing:
        raise UserError(f"{where}: no field {' and '.join(missing)} (fields: {found}); add it, or name another field")
    return form


def write(where: str, fields: Fields, form: Form, renderer: Renderer, config: InstructionConfig) -> Written:
    """The text of a record with a completion.

    Args:
        where: place of the record, for error messages.
        fields: of the record.
        form: of the record, not "text".
        renderer: the tokenizer.
        config: names of the fields, system prompt.

    Raises:
        UserError: naming the field that does not fit, or when the template cannot be cut into turns.
    """
    if form == "messages":
        return _write_chat(where, messages_of(where, fields, config.messages), 0, renderer, config)
    if form == "completion" and isinstance(fields[config.prompt], list):
        before = messages_of(where, fields, config.prompt)
        after = messages_of(where, fields, config.completion)
        return _write_chat(where, before + after, len(before), renderer, config)
    if form == "completion":
        if config.system is not None:
            raise UserError(f"{where}: a system prompt is set, but prompt and completion are plain text; leave it out")
        prompt, completion = text_of(where, fields, config.prompt), text_of(where, fields, config.completion)
        return _write_plain(prompt, completion)
    instruction, output = text_of(where, fields, config.instruction), text_of(where, fields, config.output)
    given = text_of(where, fields, config.input) if fields.get(config.input) is not None else ""
    if not renderer.has_chat_template:
        return _write_plain(alpaca_prompt(instruction, given, config.system), output)
    question = f"{instruction}\n\n{given}" if given else instruction
    turns: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
    return _write_chat(where, turns, 1, renderer, config)


def alpaca_prompt(instruction: str, given: str = "", system: str | None = None) -> str:
    """An instruction as Alpaca wrote it (Taori et al. 2023), for tokenizers without a chat template.

    Args:
        instruction: what to do.
        given: the input; left out when empty.
        system: replaces the preamble.

    >>> print(alpaca_prompt("Add.", "1, 2", system="Answer.").replace("\\n\\n", "\\n"))
    Answer.
    ### Instruction:
    Add.
    ### Input:
    1, 2
    ### Response:
    <BLANKLINE>
    """
    preamble = system if system is not None else PREAMBLE_INPUT if given else PREAMBLE
    middle = f"### Input:\n{given}\n\n" if given else ""
    return f"{preamble}\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def text_of(where: str, fields: Fields, name: str) -> str:
    """The text in a field; UserError when it holds something else."""
    if not isinstance(fields[name], str):
        kind = type(fields[name]).__name__
        raise UserError(f'{where}: the field "{name}" holds {kind} instead of text; mend the record')
    return fields[name]


def messages_of(where: str, fields: Fields, name: str) -> list[Message]:
    """The conversation in a field; UserError when it holds something else."""
    found = fields[name]
    if not isinstance(found, list) or not found:
        raise UserError(f'{where}: the field "{name}" is no list of messages; write [{{"role": ..., "content": ...}}]')
    for i, message in enumerate(found):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise UserError(
                    f'{where}: message {i} of the field "{name}" has no text under "{key}"; mend the record'
                )
    return found


def _write_plain(prompt: str, completion: str) -> Written:
    pieces = tuple(piece for piece in (Piece(prompt, False), Piece(completion, True)) if piece.text)
    return Written(pieces if completion.strip() else (), prompt, completion, templated=False)


def _write_chat(
    where: str, messages: list[Message], first: int, renderer: Renderer, config: InstructionConfig
) -> Written:
    """The text of a conversation, of which the assistant's turns from number `first` on are learned."""
    if config.system is not None and messages[0]["role"] != "system":
        messages, first = [{"role": "system", "content": config.system}, *messages], first + 1
    turns = [i for i, message in enumerate(messages) if i >= first and message["role"] == "assistant"]
    if not turns:
        raise UserError(f'{where}: no message has the role "assistant", so there is nothing to learn; mend the record')
    told = [turn for turn in turns if messages[turn]["content"].strip()]
    try:
        question = renderer.render(messages[: turns[-1]], True)
        whole = renderer.render(messages, False)
        pieces = _cut(whole, messages, told, renderer) if config.completion_only else [Piece(whole, True)]
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Written(tuple(pieces) if told else (), question, messages[turns[-1]]["content"], templated=True)


def _cut(whole: str, messages: list[Message], turns: list[int], renderer: Renderer) -> list[Piece]:
    """Cuts the text of a conversation where its beginnings end: before and after each of these turns."""
    pieces, done = [], 0
    for turn in turns:
        before, after = renderer.render(messages[:turn], True), renderer.render(messages[: turn + 1], False)
        if not (done <= len(before) < len(after) and after.startswith(before) and whole.startswith(after)):
            raise UserError(
                f"the chat template writes the messages before message {turn} in another way when it follows, so that "
                "the completion cannot be told from the prompt; use another template, or completion_only=False"
            )
        pieces += [Piece(whole[done : len(before)], False), Piece(after[len(before) :], True)]
        done = len(after)
    return [piece for piece in (*pieces, Piece(whole[done:], False)) if piece.text]
