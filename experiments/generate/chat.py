"""A conversation in the terminal, its answers shown as they are made."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from lqlm.errors import UserError

HELP = "/reset begins anew, /undo takes the last turn back, /quit (or Ctrl-D) ends; everything else is said"
Message = dict[str, str]
Answer = Callable[[list[Message]], Iterator[str]]


@dataclasses.dataclass
class Chat:
    """What was said, and who answers.

    Attributes:
        answer: conversation -> pieces of the answer, as they come.
        system: system message, or empty.
        messages: so far.
    """

    answer: Answer
    system: str = ""
    messages: list[Message] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def undo(self) -> None:
        """Forget the last question and its answer."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            del self.messages[-2:]

    def say(self, text: str) -> Iterator[str]:
        """Pieces of the answer; what was asked is remembered only with an answer, be it cut short."""
        asked, pieces = [*self.messages, {"role": "user", "content": text}], []
        try:
            for piece in self.answer(asked):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]


def talk(chat: Chat, lines: Iterable[str], out: TextIO = sys.stdout) -> None:
    """Answer line after line until there are no more, or one says /quit."""
    print(HELP, file=out)
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text in ("/reset", "/undo"):
            (chat.reset if text == "/reset" else chat.undo)()
        elif text.startswith("/"):
            print(HELP, file=out)
        elif text:
            _answer(chat, text, out)


def _answer(chat: Chat, text: str, out: TextIO) -> None:
    try:
        for piece in chat.say(text):
            print(piece, end="", flush=True, file=out)
    except KeyboardInterrupt:  # of this answer only
        print(" (interrupted)", end="", file=out)
    except UserError as error:
        print(f"{error}; /undo or /reset makes room", end="", file=out)
    print(file=out)


def typed(prompt: str = "> ") -> Iterator[str]:
    """Lines from the keyboard, or from whatever is piped in, until they end."""
    while True:
        try:
            yield input(prompt if sys.stdin.isatty() else "")
        except EOFError:
            return
