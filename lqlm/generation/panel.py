"""A panel of experts: several write one step each, read those of all, and go on; who finds itself wrong leaves.

The prompt known as tree of thought has one model play all experts in one text.  Here each expert is a completion of its
own, so that all experts of all questions are sampled at once.  What is known to work as well at equal cost is a
majority vote over independent samples (Wang et al. 2022, self-consistency, arXiv:2203.11171): compare with it.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lqlm.errors import UserError

Message = dict[str, str]
LEAVE = "LEAVE"
_ROLE = "You are expert {expert} of {experts}. Together you solve a problem step by step."
_STEP = "Write only your next step, in one sentence. If you find that you were wrong, write only {leave}."
_LAST = "Give only the final answer."


class Reply(NamedTuple):
    """A completion, and how many tokens it took."""

    text: str
    tokens: int


Ask = Callable[[Sequence[list[Message]]], Sequence[Reply]]
"""Conversations -> an answer to each; all are asked at once."""


@dataclasses.dataclass(frozen=True)
class PanelConfig:
    """How the panel works.

    Attributes:
        experts: how many begin.
        rounds: steps that each writes before it answers.
    """

    experts: int = 3
    rounds: int = 2

    def __post_init__(self) -> None:
        if self.experts < 1 or self.rounds < 0:
            raise UserError(
                f"panel.experts is {self.experts} and rounds {self.rounds}; they need experts >= 1 and rounds >= 0"
            )


@dataclasses.dataclass
class Panel:
    """One question and those who work on it.

    Attributes:
        question: as it was asked.
        steps: what was shared: (expert, step), in order.
        present: experts who have not left.
        answers: final ones, by expert.
        tokens: that were generated for this question.
    """

    question: str
    present: list[int]
    steps: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    answers: dict[int, str] = dataclasses.field(default_factory=dict)
    tokens: int = 0


def discuss(questions: Sequence[str], ask: Ask, cfg: PanelConfig) -> list[Panel]:
    """Let a panel work on each question; all panels go on together, round by round.

    The last expert of a panel does not leave: somebody has to answer.

    Args:
        questions: texts.
        ask: samples answers.
        cfg: size of the panels and number of rounds.

    Returns:
        The panels, with an answer of every expert who is still there.
    """
    panels = [Panel(question, list(range(1, cfg.experts + 1))) for question in questions]
    for _ in range(cfg.rounds):
        for (panel, expert), reply in _asked(panels, ask, cfg, _STEP.format(leave=LEAVE)):
            if LEAVE in reply.text and len(panel.present) > 1:
                panel.present.remove(expert)
            else:
                panel.steps.append((expert, " ".join(reply.text.split())))
    for (panel, expert), reply in _asked(panels, ask, cfg, _LAST):
        panel.answers[expert] = reply.text
    return panels


def _asked(panels: Sequence[Panel], ask: Ask, cfg: PanelConfig, what: str) -> list[tuple[tuple[Panel, int], Reply]]:
    """The same of every expert present, none of whom sees what the others write in this round."""
    seats = [(panel, expert) for panel in panels for expert in panel.present]
    replies = ask([_messages(panel, expert, cfg, what) for panel, expert in seats])
    for (panel, _), reply in zip(seats, replies, strict=True):
        panel.tokens += reply.tokens
    return list(zip(seats, replies))


def _messages(panel: Panel, expert: int, cfg: PanelConfig, what: str) -> list[Message]:
    shared = [f"Expert {who}: {step}" for who, step in panel.steps]
    text = "\n".join([panel.question, *(["Steps so far:", *shared] if shared else []), what])
    role = _ROLE.format(expert=expert, experts=cfg.experts)
    return [{"role": "system", "content": role}, {"role": "user", "content": text}]


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer given most often, the earliest of those given equally often; None where nobody gave one.

    >>> majority(["7", None, "8", "8"]), majority(["2", "1"]), majority([None])
    ('8', '2', None)
    """
    counts = collections.Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None
