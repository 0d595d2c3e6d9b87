"""Accuracy of single samples, of a panel, and of a majority vote that spends as many tokens as the panel."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from experiments.generate.session import Session
from lqlm.generation.panel import Ask, Message, Panel, PanelConfig, Reply, discuss, majority
from lqlm.generation.requests import Request
from lqlm.tasks.base import Item, Task, score


@dataclasses.dataclass(frozen=True)
class Method:
    """How one way of answering did.

    Attributes:
        name: of it.
        right: problems answered (the lenient score).
        problems: in all.
        tokens: generated, in all.
    """

    name: str
    right: int
    problems: int
    tokens: int

    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy.

        >>> [round(bound, 3) for bound in Method("", 5, 10, 0).interval()]
        [0.237, 0.763]
        """
        n, p, z = self.problems, self.right / self.problems, 1.96
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def asker(session: Session) -> Ask:
    """All conversations at once on the engine; every call has random numbers of its own."""
    calls = itertools.count()

    def ask(conversations: Sequence[list[Message]]) -> list[Reply]:
        chat, texts, tokens = session.model.tokenizer.chat, [""] * len(conversations), [0] * len(conversations)
        requests = (Request(str(i), tuple(chat(messages))) for i, messages in enumerate(conversations))
        for event in session.events(requests, next(calls)):
            texts[int(event.id)] += event.text
            tokens[int(event.id)] += len(event.tokens)
        return [Reply(text, count) for text, count in zip(texts, tokens)]

    return ask


def compare(task: Task, items: Sequence[Item], ask: Ask, cfg: PanelConfig) -> tuple[list[Method], list[Panel]]:
    """Three ways to answer the same problems.

    The vote has as many samples as bring its tokens nearest to the panel's, at least one.

    Args:
        task: for prompts and scores.
        items: the problems.
        ask: samples answers.
        cfg: of the panels.
    """
    panels = discuss([item.question for item in items], ask, cfg)
    answers = [majority([task.lenient(text) for text in panel.answers.values()]) for panel in panels]
    spent = sum(panel.tokens for panel in panels)
    methods = [_single(task, items, ask)]
    votes = max(1, round(spent / max(methods[0].tokens, 1)))
    methods += [_vote(task, items, ask, votes), Method("panel", _right(task, items, answers), len(items), spent)]
    return methods, panels


def _single(task: Task, items: Sequence[Item], ask: Ask) -> Method:
    replies = ask([task.messages(item) for item in items])
    right = sum(score(task, reply.text, item).lenient >= 1 for reply, item in zip(replies, items))
    return Method("one sample", right, len(items), sum(reply.tokens for reply in replies))


def _vote(task: Task, items: Sequence[Item], ask: Ask, votes: int) -> Method:
    replies = ask([task.messages(item) for item in items for _ in range(votes)])
    rows = [replies[start : start + votes] for start in range(0, len(replies), votes)]
    answers = [majority([task.lenient(reply.text) for reply in row]) for row in rows]
    tokens = sum(reply.tokens for reply in replies)
    return Method(f"majority of {votes}", _right(task, items, answers), len(items), tokens)


def _right(task: Task, items: Sequence[Item], answers: Sequence[str | None]) -> int:
    right: Callable[[str, Item], bool] = lambda answer, item: score(task, answer, item).lenient >= 1  # noqa: E731
    return sum(answer is not None and right(answer, item) for answer, item in zip(answers, items))
