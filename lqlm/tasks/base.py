"""What a task is: items with reference answers, answer extraction, a strict and a lenient score, and an item order.

Two scores, because much of what a small model gains is format: the strict score takes only an answer given in the
format that was asked for, the lenient one the last number of the text.
"""

import collections
import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

from lqlm.errors import UserError

T = TypeVar("T")

_MINUS = "-\u2212\u2013\ufe63\uff0d"  # ASCII, minus sign, en dash, and the small and full-width hyphens
_CURRENCY = "$€£¥₹"
_SIGN = re.escape(_MINUS)
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
_NUMBER = re.compile(
    rf"(?P<sign>[+{_SIGN}]?)(?:[{_CURRENCY}] ?)?(?P<inner>[{_SIGN}]?)(?P<digits>{_WHOLE}|(?<![\w.])\.[0-9]+)"
)
_BARE = re.compile(rf"[+{_SIGN}]?(?:{_WHOLE}|\.[0-9]+)")


def _numeral(match: re.Match[str], signed: bool = True) -> str:
    minus = any(mark and mark in _MINUS for mark in (match["sign"] if signed else "", match["inner"]))
    return "-" * minus + match["digits"].replace(",", "")


def _is_operator(text: str, position: int) -> bool:
    """Whether a sign at `position` follows something it can be subtracted from: "5-3", "5 - 3", "(1) -3", "x-3"."""
    before = text[max(0, position - 40) : position]
    return bool(re.search(r"[A-Za-z0-9_)\]\-]\Z|[0-9%)\]][ \t]+\Z", before))


def last_number(text: str) -> str | None:
    """The last number of a text, without thousands commas, currency and unit; None when there is none.

    A minus counts as a sign unless it stands between two numbers.  There are no fractions and no powers of ten.

    >>> last_number("so 12.5 - 7.5 = $1,005. Done!"), last_number("it is −3."), last_number("none")
    ('1005', '-3', None)
    """
    found = collections.deque(_NUMBER.finditer(text), maxlen=1)
    return _numeral(found[0], signed=not _is_operator(text, found[0].start())) if found else None


def only_number(text: str) -> str | None:
    """The number that is the whole of a text (blanks around it aside), or None.

    >>> only_number(" 1,024 "), only_number("1024 apples"), only_number("7.")
    ('1024', None, None)
    """
    text = text.strip()
    return last_number(text) if _BARE.fullmatch(text) else None


def _decimal(text: str) -> Decimal | None:
    match = _NUMBER.fullmatch(text.strip().rstrip(f". %{_CURRENCY}"))
    return Decimal(_numeral(match)) if match else None


def numbers_equal(prediction: str, answer: str) -> bool:
    """Whether two texts are the same number; texts that are not numbers are compared as texts.

    >>> numbers_equal("1,024", "1024"), numbers_equal("7.0", "7"), numbers_equal("$5", "5%"), numbers_equal("3", "-3")
    (True, True, True, False)
    """
    left, right = _decimal(prediction), _decimal(answer)
    if left is None or right is None:
        return prediction.strip() == answer.strip()
    return left == right


class AnswerFormat(enum.StrEnum):
    """How an answer has to be written to earn the strict score."""

    NUMBER = "number"  # the completion is only the number
    LABEL = "label"  # the last line is "Answer: N"
    TAG = "tag"  # the text ends with "<answer>N</answer>"
    HASHES = "hashes"  # the last line is "#### N", as in GSM8K

    @property
    def instruction(self) -> str:
        """The sentence that asks for this format."""
        return _INSTRUCTIONS[self]

    def write(self, answer: str) -> str:
        """A reply that holds only the answer, in this format."""
        prefix, suffix = _AFFIXES[self]
        return f"{prefix}{answer}{suffix}"

    def inner(self, text: str) -> str | None:
        """What stands where the answer belongs.  The mark must come once: naming many answers is not answering.

        >>> AnswerFormat.LABEL.inner("2 + 2 = 4\\nAnswer: 4"), AnswerFormat.TAG.inner("<answer>4</answer>?")
        ('4', None)
        """
        text, (prefix, suffix) = text.strip(), _AFFIXES[self]
        if (prefix and text.count(prefix.strip()) != 1) or not text.endswith(suffix):
            return None
        before, found, after = text.partition(prefix) if prefix else ("", "", text)
        inside_a_line = bool(before) and not before.endswith("\n") and not suffix
        return None if inside_a_line or found != prefix else after.removesuffix(suffix).strip()

    def extract(self, text: str) -> str | None:
        """The number given in this format, or None."""
        inner = self.inner(text)
        return None if inner is None else only_number(inner)


_AFFIXES = {
    AnswerFormat.NUMBER: ("", ""),
    AnswerFormat.LABEL: ("Answer: ", ""),
    AnswerFormat.TAG: ("<answer>", "</answer>"),
    AnswerFormat.HASHES: ("#### ", ""),
}
_INSTRUCTIONS = {
    AnswerFormat.NUMBER: "Answer with the number only.",
    AnswerFormat.LABEL: 'End with a line of the form "Answer: N", where N is the number.',
    AnswerFormat.TAG: "End with the number inside of tags: <answer>N</answer>.",
    AnswerFormat.HASHES: 'End with a line of the form "#### N", where N is the number.',
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One problem.

    Attributes:
        question: as asked.
        answer: the reference answer; empty: there is none, and nothing but rewards tells good from bad.
        id: a name that stays the same between runs.
        solution: the way to the answer, step by step, where the task knows it.
        before: turns (role, content) of the conversation that the question goes on with.
        scenario: the task that it comes from, where several are mixed (`lqlm.tasks.mixture`).
    """

    question: str
    answer: str
    id: str
    solution: str = ""
    before: tuple[tuple[str, str], ...] = ()
    scenario: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
    """Two scores of one completion, 0.0 to 1.0: for the answer in the asked-for format, and for the answer found."""

    strict: float
    lenient: float


@dataclasses.dataclass(frozen=True)
class Task:
    """Problems with verifiable answers.

    Attributes:
        name: for logs and item ids.
        train, heldout: the items; no question is in both, nor twice in `heldout`.
        strict: text -> the answer in the asked-for format, or None.
        lenient: text -> the answer however given, or None.
        equal: (prediction, answer) -> whether they are the same.
        verify: (prediction, item) -> 0.0 to 1.0, for tasks where more than one answer is right; None: `equal`.
        system: the system prompt, or None.
        shots: solved examples (question, reply) shown before each question; none of them is an item.
        measures: what else is measured of held-out completions, name -> (completion, item) -> number.
        scenarios: where several tasks are mixed, each by its name; it asks and judges its own items.
    """

    name: str
    train: Sequence[Item]
    heldout: Sequence[Item]
    strict: Callable[[str], str | None]
    lenient: Callable[[str], str | None] = last_number
    equal: Callable[[str, str], bool] = numbers_equal
    verify: Callable[[str, Item], float] | None = None
    system: str | None = None
    shots: tuple[tuple[str, str], ...] = ()
    measures: Mapping[str, Callable[[str, Item], float]] = dataclasses.field(default_factory=dict)
    scenarios: Mapping[str, "Task"] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        heldout = {_asked(item) for item in self.heldout}
        if len(heldout) < len(self.heldout):
            raise UserError(f"task {self.name}: the held-out items hold a question twice; remove the repeats")
        shared = [item.question for item in self.train if _asked(item) in heldout]
        if shared:
            raise UserError(
                f"task {self.name}: {len(shared)} training questions are held out too, the first of them "
                f"{shared[0][:60]!r}; remove them from the training items"
            )

    def messages(self, item: Item) -> list[dict[str, str]]:
        """The chat that asks for one item: system prompt, shots, the turns before, question."""
        if (own := self.of(item)) is not self:
            return own.messages(item)
        given = any(role == "system" for role, _ in item.before)
        system = [] if self.system is None or given else [{"role": "system", "content": self.system}]
        turns = [turn for shot in self.shots for turn in zip(("user", "assistant"), shot, strict=True)]
        turns += [*item.before, ("user", item.question)]
        return system + [{"role": role, "content": content} for role, content in turns]

    def of(self, item: Item) -> "Task":
        """The task that asks and judges an item: of several that are mixed its own, else this one."""
        return self.scenarios.get(item.scenario, self)


def _asked(item: Item) -> tuple[str, tuple[tuple[str, str], ...], str]:
    return (item.question, item.before, item.scenario)


def _grade(task: Task, prediction: str | None, item: Item) -> float:
    if prediction is None or not (task.verify or item.answer):  # no reference: not even an empty answer is right
        return 0.0
    return float(task.verify(prediction, item) if task.verify else task.equal(prediction, item.answer))


def score(task: Task, text: str, item: Item) -> Score:
    """The strict and the lenient score of one completion, by the task that the item comes from."""
    task = task.of(item)
    return Score(_grade(task, task.strict(text), item), _grade(task, task.lenient(text), item))


@functools.lru_cache(maxsize=8)
def _order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    # Sorting by a hash gives the same permutation on every Python version; the random module promises no such thing.
    key = lambda i: hashlib.blake2b(f"{seed}/{epoch}/{i}".encode(), digest_size=16).digest()  # noqa: E731
    return tuple(sorted(range(n), key=key))


def batch_at(items: Sequence[T], step: int, size: int, seed: int) -> list[T]:
    """The items of one step, a pure function of (seed, step): a resumed run sees what an uninterrupted one sees.

    The epochs' permutations (one for each seed and epoch) are laid end to end and cut into batches, so every item
    comes once per epoch and a batch may hold the end of one epoch and the start of the next.

    Args:
        items: n items.
        step: step number, from 0.
        size: items per step; may exceed n.
        seed: picks the permutations.
    """
    if not items or size < 1 or step < 0:
        raise UserError(f"batch of {size} from {len(items)} items at step {step}: needs items, size >= 1, step >= 0")
    places = [divmod(k, len(items)) for k in range(step * size, (step + 1) * size)]
    return [items[_order(len(items), seed, epoch)[i]] for epoch, i in places]


def batches(task: Task, batch_size: int, seed: int, start_step: int) -> Iterator[list[Item]]:
    """The training batches from `start_step` on, without end."""
    step = start_step
    while True:
        yield batch_at(task.train, step, batch_size, seed)
        step += 1
