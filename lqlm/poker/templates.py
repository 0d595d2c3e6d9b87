"""The templates of prompts by name: how each is written and read, and how it is answered."""

from collections.abc import Callable
from typing import NamedTuple

from lqlm.poker.answers import Answer, write_answer, write_short
from lqlm.poker.compact import read_compact, write_compact
from lqlm.poker.prompts import read_prompt, write_prompt
from lqlm.poker.state import State
from lqlm.poker.terse import read_terse, write_terse


class Template(NamedTuple):
    """A template.

    Attributes:
        write: state -> prompt.
        read: prompt -> state; raises HandError where the prompt is not as the template has it.
        answer: answer -> its text.
    """

    write: Callable[[State], str]
    read: Callable[[str], State]
    answer: Callable[[Answer], str]


TEMPLATES = {
    "paper": Template(write_prompt, read_prompt, write_answer),
    "compact": Template(write_compact, read_compact, write_short),
    "terse": Template(write_terse, read_terse, write_short),
}
"""PokerGPT's template, one of a third of its tokens, and one of a tenth."""
