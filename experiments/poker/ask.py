"""What a model is asked: a decision in words, in the tokens that it was trained on, and its scores of the answers."""

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.generation.rollout import check_context
from lqlm.poker.answers import read_answer
from lqlm.poker.arena.assumed import USUAL, Assumption
from lqlm.poker.policy import Question, Score, Shapes, score_questions
from lqlm.poker.state import CHOICES, State, ViewConfig
from lqlm.poker.templates import TEMPLATES
from lqlm.poker.told import check_names
from lqlm.tasks.instructions import Tokenizer, tokenize
from lqlm.tasks.records import InstructionConfig

NO_LIMIT_OF_TOKENS = InstructionConfig(max_length=2**30)


@dataclasses.dataclass(frozen=True)
class AskSettings:
    """How a decision is put into words.

    Attributes:
        template: ``terse``, ``compact``, or the ``paper``'s.
        chat: as a conversation in the model's chat template; else as plain text.
        round_up: amounts in whole big blinds, as in the paper.
        choices: bets to choose from, in big blinds.
        features: what is told besides, of :data:`lqlm.poker.told.NAMES`: equity, range-equity, pot-odds, draws, class,
            spot, habits.
        style: a request that every prompt makes, such as "aggressive"; empty: none.
        raisers: for range-equity, what those hold who bet or raised (:mod:`lqlm.poker.ranges`).
        others: and what the others hold who are in.
        canonical: cards in one order with suits by one rule (:func:`lqlm.poker.cards.canonical`), not as dealt.
    """

    template: typing.Literal["compact", "paper", "terse"] = "compact"
    chat: bool = False
    round_up: bool = True
    choices: tuple[int, ...] = CHOICES
    features: tuple[str, ...] = ()
    style: str = ""
    raisers: str = USUAL.raisers
    others: str = USUAL.others
    canonical: bool = False

    def __post_init__(self) -> None:
        """Refuse features that are not known, what is no range, no bet, and no line."""
        check_names(self.features)
        if not self.choices or min(self.choices) < 0:
            raise UserError(f"choices are {self.choices}; give bets in big blinds, none below 0")
        if not self.style.isprintable():
            raise UserError(f"style is {self.style!r}; give one line of text")
        Assumption(self.raisers, self.others)

    @property
    def view(self) -> ViewConfig:
        """What is shown, and how."""
        against = Assumption(self.raisers, self.others)
        return ViewConfig(self.round_up, self.choices, self.features, self.style, against, self.canonical)

    @property
    def arguments(self) -> list[str]:
        """The same for the command line of ``prompts``."""
        argv = ["--template", self.template, "--choices", *map(str, self.choices)]
        argv += ["--features", *self.features, "--raisers", self.raisers, "--others", self.others]
        argv += ["--style", self.style] if self.style else []
        argv += [] if self.round_up else ["--no-rounding"]
        return [*argv, "--canonical"] if self.canonical else argv

    def prompt(self, state: State) -> str:
        """The prompt of a state."""
        return TEMPLATES[self.template].write(state)

    def record(self, prompt: str, completion: str) -> dict[str, Any]:
        """Prompt and answer as a record of experiments.sft."""
        if self.chat:
            turns = (("user", prompt), ("assistant", completion))
            return {"messages": [{"role": role, "content": content} for role, content in turns]}
        return {"prompt": f"{prompt}\n", "completion": completion}


@dataclasses.dataclass(frozen=True, repr=False)
class Scorer:
    """Log-probabilities of answers, as :class:`lqlm.poker.arena.language.LanguageAgent` asks for them.

    Attributes:
        tokenizer: of the model.
        score: the model, compiled.
        ask: how decisions are put into words.
        shapes: what arrays are padded to.
        pad_id: what they are filled with.
        limit: tokens that the model can hold.
        name: of model and settings; it stands for them where a match is kept in a file.
        tails: (chat or not, answer) -> the tokens of those that were asked for so far: to tokenize a prompt anew for
            each of its answers took most of the time of a match.
    """

    tokenizer: Tokenizer
    score: Score
    ask: AskSettings
    shapes: Shapes
    pad_id: int
    limit: int
    name: str
    tails: dict[tuple[bool, str], list[int]] = dataclasses.field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Scorer({self.name})"

    def __call__(self, prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        """For each prompt the log-probability of every answer; answers in either form, scored in the template's."""
        questions = [self.question(prompt, several) for prompt, several in zip(prompts, answers, strict=True)]
        return score_questions(self.score, questions, self.shapes, self.pad_id)

    def question(self, prompt: str, answers: Iterable[str]) -> Question:
        """The tokens of a prompt and of its answers, as training had them.

        Raises:
            UserError: when the model cannot hold so many.
        """
        tails = [self.tail(prompt, TEMPLATES[self.ask.template].answer(read_answer(answer))) for answer in answers]
        tokens = self.head(prompt)
        check_context(len(tokens), max(map(len, tails)), self.limit, "a prompt of the table")
        return Question(tokens, tails)

    def head(self, prompt: str) -> list[int]:
        """The tokens before an answer; of a conversation its beginning, which need not be written with an answer."""
        record = self.ask.record(prompt, "fold")
        if not self.ask.chat:
            return tokens_of(record, self.tokenizer)[0]
        return self.tokenizer.encode_more(self.tokenizer.render(record["messages"][:-1], True))

    def tail(self, prompt: str, text: str) -> list[int]:
        """The tokens of an answer; they are the same after every prompt, since what stands between is the same."""
        key = self.ask.chat, text
        if key not in self.tails:
            self.tails[key] = tokens_of(self.ask.record(prompt, text), self.tokenizer)[1]
        return self.tails[key]


def tokens_of(record: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens before the first learned one, and the rest."""
    (example,) = tokenize("poker", record, tokenizer, NO_LIMIT_OF_TOKENS).examples
    first = int(example.targets.argmax())
    return example.tokens[:first].tolist(), example.tokens[first:].tolist()


def add_arguments(parser: argparse.ArgumentParser, template: str, features: Sequence[str]) -> None:
    """The options of a command that say how decisions are put into words.

    Args:
        parser: to add them to.
        template: the default.
        features: what can be told besides.
    """
    parser.add_argument("--template", choices=sorted(TEMPLATES), default=template, help="of prompts")
    parser.add_argument("--features", nargs="*", choices=features, default=[], help="what prompts tell besides")
    parser.add_argument("--no-rounding", action="store_true", help="amounts as they are, not in whole big blinds")
    parser.add_argument("--choices", nargs="+", type=int, default=list(CHOICES), help="bets in big blinds")
    parser.add_argument("--style", default="", help='a request that every prompt makes, such as "aggressive"')
    parser.add_argument("--canonical", action="store_true", help="cards in one order, suits by one rule")
    parser.add_argument("--raisers", default=USUAL.raisers, help="range of those who bet or raised: 30%%, 22+,AJ+")
    parser.add_argument("--others", default=USUAL.others, help="range of the others who are in")


def ask_of(options: argparse.Namespace) -> AskSettings:
    """What such options say; ``chat`` where the command has that option too."""
    return AskSettings(
        template=options.template,
        chat=getattr(options, "chat", False),
        round_up=not options.no_rounding,
        choices=tuple(options.choices),
        features=tuple(options.features),
        style=options.style,
        raisers=options.raisers,
        others=options.others,
        canonical=options.canonical,
    )
