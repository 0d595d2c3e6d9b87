"""A language model that plays Kuhn or Leduc: its prompts and answers as tokens, and its scores of the answers."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.poker.agent import AgentSettings, open_player
from experiments.poker.ask import tokens_of
from experiments.settings import ModelSettings
from lqlm.errors import UserError
from lqlm.generation.rollout import check_context
from lqlm.poker.arena.language import small_game_answers, small_game_policy, small_game_prompt
from lqlm.poker.arena.small_games import InformationState, Policy
from lqlm.poker.policy import Question, Score, Shapes, score_questions
from lqlm.tasks.instructions import Tokenizer

SHAPES = Shapes(rows=64, prompt=16, answers=3, tokens=4)


def without_rules(prompt: str) -> str:
    """A prompt of a small game less its first line.

    >>> without_rules("Kuhn poker: ...\\nYou are player 1")
    'You are player 1'
    """
    return prompt.partition("\n")[2]


def question_of(prompt: str, answers: Iterable[str], tokenizer: Tokenizer, limit: int) -> Question:
    """The tokens of a prompt and of its answers; an answer ends with the token that ends a text.

    Raises:
        UserError: when the model cannot hold so many.
    """
    pairs = [tokens_of({"prompt": prompt, "completion": answer}, tokenizer) for answer in answers]
    if any(pair[0] != pairs[0][0] for pair in pairs):
        raise UserError(f"prompt {prompt!r}: its tokens depend on the answer; use a tokenizer that splits words")
    check_context(len(pairs[0][0]), max(len(answer) for _, answer in pairs), limit, "a prompt of a small game")
    return Question(pairs[0][0], [answer for _, answer in pairs])


def questions(states: Iterable[InformationState], rules: bool, tokenizer: Tokenizer, limit: int) -> list[Question]:
    """What a model is asked at each of the states.

    Args:
        states: of a game.
        rules: whether prompts begin with the rules.
        tokenizer: of the model.
        limit: tokens that the model can hold.
    """
    asked = [(small_game_prompt(state), small_game_answers(state)) for state in states]
    return [question_of(p if rules else without_rules(p), answers, tokenizer, limit) for p, answers in asked]


@dataclasses.dataclass(frozen=True)
class SmallGameScorer:
    """Log-probabilities of answers, as `lqlm.poker.arena.language.small_game_policy` asks for them.

    Attributes:
        tokenizer: of the model.
        score: the model, compiled.
        limit: tokens that the model can hold.
        pad_id: what arrays are filled with.
        rules: whether it was trained on prompts with the rules.
    """

    tokenizer: Tokenizer
    score: Score
    limit: int
    pad_id: int
    rules: bool

    def __call__(self, prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        """For each prompt the log-probability of every answer."""
        shown = prompts if self.rules else [without_rules(prompt) for prompt in prompts]
        asked = [question_of(*pair, self.tokenizer, self.limit) for pair in zip(shown, answers, strict=True)]
        return score_questions(self.score, asked, SHAPES, self.pad_id)


def open_small_game_policy(game: str, model: ModelSettings, adapter: str = "", rules: bool = True) -> Policy:
    """The policy of what ``train-small`` left.

    Args:
        game: "kuhn" or "leduc".
        model: ``model/`` of the run's folder, not quantized; or the base of an adapter, held as in training.
        adapter: a PEFT directory; empty: none.
        rules: as in training.

    Raises:
        UserError: when model or adapter cannot be read.
    """
    opened = open_player(AgentSettings(model, adapter, merge=False))
    inner = opened.scorer
    scorer = SmallGameScorer(inner.tokenizer, inner.score, inner.limit, inner.pad_id, rules)
    return small_game_policy(game, scorer)
