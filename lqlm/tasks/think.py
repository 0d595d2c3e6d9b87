"""Reasoning and answer in tags of their own: ``<think>...</think><answer>...</answer>`` (R1, arXiv:2501.12948).

`think_task` asks any task's problems in this form; the strict score is then 1 for the right answer in the right form.
"""

import dataclasses
import re

from lqlm.errors import UserError
from lqlm.tasks.base import Task


def tag_content(text: str, tag: str) -> str | None:
    """What stands between the last ``<tag>`` and the ``</tag>`` after it; None when there is no such pair.

    >>> tag_content("<answer>6</answer> no, <answer> 7 </answer>", "answer"), tag_content("<answer>7", "answer")
    (' 7 ', None)
    """
    _, opened, rest = text.rpartition(f"<{tag}>")
    content, closed, _ = rest.partition(f"</{tag}>")
    return content if opened and closed else None


@dataclasses.dataclass(frozen=True)
class ThinkFormat:
    """The two tags.

    Attributes:
        think: name of the reasoning's tag.
        answer: name of the answer's tag.
    """

    think: str = "think"
    answer: str = "answer"

    def __post_init__(self) -> None:
        names = (self.think, self.answer)
        if len(set(names)) < 2 or not all(re.fullmatch(r"[A-Za-z][\w-]*", name) for name in names):
            raise UserError(f"think format: the tags {names} cannot be used; give two different names of letters")

    @property
    def tags(self) -> tuple[str, str, str, str]:
        """The four tags in the order in which they belong."""
        return (f"<{self.think}>", f"</{self.think}>", f"<{self.answer}>", f"</{self.answer}>")

    @property
    def instruction(self) -> str:
        """The sentences that ask for this form."""
        reason = self.write("reasoning", "final answer").replace("\n", "")
        return f"First reason about the question, then give the final answer alone, in exactly this form: {reason}"

    def sections(self, text: str) -> tuple[str, str] | None:
        """(reasoning, answer) of a text that is nothing but the two, each once, in order and not blank; or None.

        >>> ThinkFormat().sections("<think>3 + 4</think>\\n<answer>7</answer>")
        ('3 + 4', '7')
        >>> ThinkFormat().sections("<think>3 + 4</think>\\n<answer>7</answer> I hope") is None
        True
        """
        if any(text.count(tag) != 1 for tag in self.tags):
            return None
        outside, inside = [], []
        for opening, closing in (self.tags[:2], self.tags[2:]):
            before, _, text = text.partition(opening)
            content, closed, text = text.partition(closing)
            if not closed:  # the tags are in another order
                return None
            outside.append(before)
            inside.append(content.strip())
        return (inside[0], inside[1]) if all(inside) and not "".join([*outside, text]).strip() else None

    def write(self, reasoning: str, answer: str) -> str:
        """A reply in this form.

        >>> ThinkFormat().write("3 + 4 = 7", "7")
        '<think>3 + 4 = 7</think>\\n<answer>7</answer>'
        """
        opening, closing, first, last = self.tags
        return f"{opening}{reasoning}{closing}\n{first}{answer}{last}"


def think_task(task: Task, form: ThinkFormat = ThinkFormat(), system: str | None = None) -> Task:
    """Another task's problems, with the answer in tags after the reasoning in tags.

    Strict is the wrapped task's comparison on the text inside of the answer's tags, and only for a completion that has
    exactly the form; lenient is the wrapped task's, inside of the answer's tags where there are any.  A question that
    asks for a form of its own ("Answer with the number only.") would contradict the system prompt: leave it out there,
    as with ``ArithmeticConfig(template="What is {expression}?")``.

    Args:
        task: the task to wrap; its system prompt is replaced, and the replies of its shots become the reasoning.
        form: the tags.
        system: system prompt; None: one that asks for the form.

    >>> from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
    >>> from lqlm.tasks.base import score
    >>> task = think_task(arithmetic_task(ArithmeticConfig(template="What is {expression}?")))
    >>> score(task, f"<think>Add.</think><answer>{task.heldout[0].answer}</answer>", task.heldout[0])
    Score(strict=1.0, lenient=1.0)
    """

    def strict(text: str) -> str | None:
        sections = form.sections(text)
        return None if sections is None else sections[1]

    def lenient(text: str) -> str | None:
        inner = tag_content(text, form.answer)
        found = None if inner is None else task.lenient(inner)
        return task.lenient(text) if found is None else found

    return dataclasses.replace(
        task,
        name=f"think/{task.name}",
        strict=strict,
        lenient=lenient,
        system=form.instruction if system is None else system,
        shots=tuple((question, form.write(reply, task.lenient(reply) or reply)) for question, reply in task.shots),
    )
