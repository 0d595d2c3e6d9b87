"""A language model as a player: what it is asked, and probabilities of actions from the scores of their texts.

The model enters as a function from prompts and the answers that are legal to log-probabilities.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lqlm.poker.answers import Answer, exact_answer, read_answer, write_answer
from lqlm.poker.arena.actions import RAISES, BlindChoices, Menu, passive
from lqlm.poker.arena.observation import Mixed, Observation
from lqlm.poker.arena.small_games import RANKS, InformationState, Policy, from_table, information_states
from lqlm.poker.profiles import Profile
from lqlm.poker.prompts import write_prompt
from lqlm.poker.record import Act, ActKind, HandError
from lqlm.poker.state import State, ViewConfig, names_of, state_of, word_of
from lqlm.poker.told import know_equities

Score = Callable[[Sequence[str], Sequence[tuple[str, ...]]], Sequence[np.ndarray]]
"""Prompts and the answers to each -> for each prompt the log-probability of every answer, its tokens' sum."""

_RULES = {
    "kuhn": "Kuhn poker: cards J, Q, K; one each; ante 1; one bet of 1.",
    "leduc": "Leduc poker: two each of J, Q, K; one private, one public after round 1; ante 1; "
    "bets of 2, in round 2 of 4; two bets a round; a pair with the public card wins, else the higher card.",
}


def action_probabilities(logprobs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities over the legal actions alone, ``p_a = exp(l_a / t) / sum_b exp(l_b / t)``.

    Args:
        logprobs: [actions], of the text of each; minus infinity is an action that is never taken.
        temperature: t; towards 0 the best action alone is left.

    Returns:
        float64 [actions]; uniform where no action has any probability.

    >>> print(action_probabilities(np.log([0.1, 0.3])))
    [0.25 0.75]
    """
    logprobs = np.asarray(logprobs, np.float64)
    if not np.isfinite(logprobs).any():
        return np.full(len(logprobs), 1 / len(logprobs))
    weights = np.exp((logprobs - logprobs.max()) / temperature)
    return weights / weights.sum()


def small_game_prompt(state: InformationState) -> str:
    """The prompt of an information state; suits are left out, since they do not matter.

    >>> print(small_game_prompt(information_states("kuhn")[2]))
    Kuhn poker: cards J, Q, K; one each; ante 1; one bet of 1.
    You are player 1 with J. Round 1: check, bet.
    Choose fold or call. You should
    """
    public = f", public card {RANKS[state.public]}" if state.public is not None else ""
    rounds = " ".join(f"Round {i}: {', '.join(past) or 'nothing yet'}." for i, past in enumerate(state.rounds, 1))
    return (
        f"{_RULES[state.game]}\nYou are player {state.player + 1} with {RANKS[state.card]}{public}. {rounds}\n"
        f"Choose {' or '.join(state.words)}. You should"
    )


def small_game_answers(state: InformationState) -> tuple[str, ...]:
    """What goes on from the prompt, for each legal action."""
    return tuple(f" {word}." for word in state.words)


def small_game_policy(game: str, score: Score, temperature: float = 1.0) -> Policy:
    """The policy of a model in a small game; each different prompt is scored once, all in one call.

    Args:
        game: "kuhn" or "leduc".
        score: the model.
        temperature: of :func:`action_probabilities`.
    """
    states = information_states(game)
    asked = {small_game_prompt(state): small_game_answers(state) for state in states}
    scores = dict(zip(asked, score(list(asked), list(asked.values()))))
    table = {state.key: action_probabilities(scores[small_game_prompt(state)], temperature) for state in states}
    return from_table(table)


@dataclasses.dataclass(frozen=True)
class LanguageAgent:
    """A model at the table: the prompt of the decision, and its log-probabilities of what the menu offers.

    Attributes:
        score: the model.
        menu: decisions to choose from; PokerGPT's bet choices by default.
        view: how amounts are shown.
        write: state -> prompt.
        temperature: of :func:`action_probabilities`.
        profiles: of players by name, whose habits are told; None for none.
    """

    score: Score
    menu: Menu = BlindChoices()
    view: ViewConfig = ViewConfig()
    write: Callable[[State], str] = write_prompt
    temperature: float = 1.0
    profiles: Mapping[str, Profile] | None = dataclasses.field(default=None, repr=False)

    def act(self, observation: Observation, rng: np.random.Generator) -> Mixed:
        """The distribution over the menu."""
        return self.act_many([observation], [rng])[0]

    def act_many(self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]) -> list[Mixed]:
        """The distributions of many tables from one call of the model; nothing is drawn from the generators."""
        menus = [self.menu(seen) for seen in observations]
        if "equity" in self.view.features:
            know_equities((seen.cards, seen.board) for seen in observations)
        prompts = [self.prompt(seen) for seen in observations]
        answers = [tuple(answer_of(seen, act) for act in acts) for seen, acts in zip(observations, menus)]
        scores = self.score(prompts, answers)
        chances = (action_probabilities(logprobs, self.temperature) for logprobs in scores)
        return [Mixed(acts, tuple(map(float, row))) for acts, row in zip(menus, chances)]

    def prompt(self, seen: Observation) -> str:
        """What the model is asked."""
        hand = seen.hand
        habits = None if self.profiles is None else names_of(hand, self.profiles)
        return self.write(state_of(hand, seen.decision, seen.cards, self.view, profiles=habits))


def answer_of(observation: Observation, act: Act) -> str:
    """The sentence of a decision."""
    decision = dataclasses.replace(observation.decision, act=act)
    return write_answer(exact_answer(decision, observation.opening.money.decimals))


@dataclasses.dataclass(frozen=True)
class TextAgent:
    """A model that writes its answer: it may be illegal or unreadable, and the table counts that.

    Attributes:
        answer: prompt -> text.
        view: how amounts are shown.
        write: state -> prompt.
    """

    answer: Callable[[str], str]
    view: ViewConfig = ViewConfig()
    write: Callable[[State], str] = write_prompt

    def act(self, observation: Observation, rng: np.random.Generator) -> Act | None:
        """The decision that the text says, legal or not; None where it says none."""
        state = state_of(observation.hand, observation.decision, observation.cards, self.view)
        try:
            return intended(read_answer(self.answer(self.write(state))), observation)
        except HandError:
            return None


def intended(answer: Answer, observation: Observation) -> Act:
    """What an answer means here, whether it is legal or not."""
    seat, own = observation.seat, observation.bets[observation.seat] + observation.stacks[observation.seat]
    if answer.word == "all-in":
        return passive(observation) if observation.legal.call == observation.stacks[seat] else raise_all_in(observation)
    kind = next(kind for kind in ActKind if word_of(Act(seat, kind)) == answer.word)
    if answer.word == "call":
        return passive(observation) if observation.legal.call else Act(seat, kind)
    amount = round(answer.amount.scaleb(observation.opening.money.decimals))
    return Act(seat, kind, amount, kind in RAISES and amount == own)


def raise_all_in(observation: Observation) -> Act:
    """The bet or raise of everything, whether it is legal or not."""
    own = observation.bets[observation.seat] + observation.stacks[observation.seat]
    return Act(observation.seat, ActKind.RAISE if observation.bet else ActKind.BET, own, True)
