"""Kuhn and Leduc poker, small enough that what the best opponent would win is computed and not sampled.

The games are OpenSpiel's; its exploitability of a policy pair is half of NashConv,
``(max_a u_1(a, pi_2) + max_b u_2(pi_1, b)) / 2``, in antes per hand: 2.374 for uniform play in Leduc and 0.458 in Kuhn
(of which NashConv, 4.747 and 0.917, is quoted elsewhere).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lqlm.errors import UserError

GAMES = {"kuhn": "kuhn_poker", "leduc": "leduc_poker"}
RANKS = ("J", "Q", "K")


@dataclasses.dataclass(frozen=True, slots=True)
class InformationState:
    """What a player knows at a decision of a small game.

    Attributes:
        key: OpenSpiel's text of it.
        game: "kuhn" or "leduc".
        player: 0 or 1; 0 is the first to act.
        card: rank of the own card, 0 (jack), 1 (queen), 2 (king).
        public: rank of the public card, None where there is none.
        rounds: what was done, in words, round by round.
        actions: OpenSpiel's numbers of the legal actions.
        words: what they are called: check, bet, fold, call, raise.
    """

    key: str
    game: str
    player: int
    card: int
    public: int | None
    rounds: tuple[tuple[str, ...], ...]
    actions: tuple[int, ...]
    words: tuple[str, ...]


Policy = Callable[[InformationState], np.ndarray]
"""The probabilities of ``actions``."""


@functools.cache
def load_game(game: str) -> tuple[Any, Any]:
    """OpenSpiel, and one of the games as it knows it."""
    if game not in GAMES:
        raise UserError(f"no small game {game!r}; it is one of {', '.join(GAMES)}")
    try:
        import pyspiel
    except ModuleNotFoundError as error:
        raise UserError("Kuhn and Leduc need OpenSpiel: pip install 'lqlm[poker]'") from error
    return pyspiel, pyspiel.load_game(GAMES[game])


@functools.cache
def information_states(game: str) -> tuple[InformationState, ...]:
    """Every information state, in the order in which play reaches it: 12 in Kuhn, 936 in Leduc (suits count there).

    >>> len(information_states("kuhn")), information_states("kuhn")[1].words
    (12, ('check', 'bet'))
    """
    found: dict[str, InformationState] = {}
    for state in _walk(load_game(game)[1].new_initial_state()):
        key = state.information_state_string()
        found.setdefault(key, _read(game, key, state.current_player(), tuple(state.legal_actions())))
    return tuple(found.values())


def _walk(state: Any) -> Iterator[Any]:
    """Every decision below a state."""
    if state.is_terminal():
        return
    if state.is_chance_node():
        for action, _ in state.chance_outcomes():
            yield from _walk(state.child(action))
        return
    yield state
    for action in state.legal_actions():
        yield from _walk(state.child(action))


def _read(game: str, key: str, player: int, actions: tuple[int, ...]) -> InformationState:
    if game == "kuhn":
        past = tuple("bet" if letter == "b" else "check" for letter in key[1:])
        words: tuple[str, ...] = ("fold", "call") if past and past[-1] == "bet" else ("check", "bet")
        return InformationState(key, game, player, int(key[0]), None, (past,), actions, words)
    fields = dict(re.findall(r"\[(\w+): ([^\]]*)\]", key))
    public = int(fields["Public"]) // 2 if "Public" in fields else None
    rounds = [_leduc_words(fields["Round1"])] + ([_leduc_words(fields["Round2"])] if public is not None else [])
    words = tuple(_leduc_word(action, facing="bet" in rounds[-1]) for action in actions)
    return InformationState(key, game, player, int(fields["Private"]) // 2, public, tuple(rounds), actions, words)


def _leduc_words(numbers: str) -> tuple[str, ...]:
    """The words of a round.

    >>> _leduc_words("1 2 2 1")
    ('check', 'bet', 'raise', 'call')
    """
    said: list[str] = []
    for number in numbers.split():
        said.append(_leduc_word(int(number), facing="bet" in said))
    return tuple(said)


def _leduc_word(action: int, facing: bool) -> str:
    return ("fold", "call", "raise")[action] if facing else ("fold", "check", "bet")[action]


def uniform(state: InformationState) -> np.ndarray:
    """Every action is as likely."""
    return np.full(len(state.actions), 1 / len(state.actions))


def always_call(state: InformationState) -> np.ndarray:
    """Checks and calls."""
    return np.array([float(word in ("check", "call")) for word in state.words])


def tabulate(game: str, policy: Policy) -> dict[str, np.ndarray]:
    """A policy as a table, key -> probabilities.

    Raises:
        UserError: when what it gives at a state is no distribution over the actions there.
    """
    table = {}
    for state in information_states(game):
        given = np.asarray(policy(state), np.float64)
        if given.shape != (len(state.actions),) or (given < 0).any() or abs(given.sum() - 1) > 1e-6:
            raise UserError(f"policy at {game} {state.key!r}: {given} is no distribution over {', '.join(state.words)}")
        table[state.key] = given / given.sum()
    return table


def from_table(table: Mapping[str, np.ndarray]) -> Policy:
    """The policy of a table."""
    return lambda state: table[state.key]


def _tabular(game: str, policy: Policy) -> Any:
    table = tabulate(game, policy)
    rows = {state.key: list(zip(state.actions, map(float, table[state.key]))) for state in information_states(game)}
    return load_game(game)[0].TabularPolicy(rows)


def exploitability(game: str, policy: Policy) -> float:
    """What the best opponent wins from a policy, exactly, in antes per hand, the mean of both seats; 0: equilibrium.

    Args:
        game: "kuhn" or "leduc".
        policy: for both seats.

    >>> round(exploitability("kuhn", uniform), 4)
    0.4583
    """
    return float(load_game(game)[0].exploitability(load_game(game)[1], _tabular(game, policy)))


def expected_value(game: str, policy: Policy, other: Policy) -> float:
    """What a policy wins from another, exactly, in antes per hand, the mean of both seats."""
    spiel, loaded = load_game(game)
    mine, theirs = _tabular(game, policy), _tabular(game, other)

    def values(first: Any, second: Any) -> list[float]:
        return spiel.expected_returns(loaded.new_initial_state(), [first, second], -1, True)

    return float((values(mine, theirs)[0] + values(theirs, mine)[1]) / 2)


def cfr_plus(game: str, iterations: int) -> Policy:
    """The average policy of CFR+ (Tammelin, arXiv 1407.5042).

    Args:
        game: "kuhn" or "leduc".
        iterations: 1000 take a Leduc policy below 0.001.
    """
    spiel, loaded = load_game(game)
    solver = spiel.CFRPlusSolver(loaded)
    for _ in range(iterations):
        solver.evaluate_and_update_policy()
    average = solver.average_policy()
    table = {}
    for state in _walk(loaded.new_initial_state()):
        key = state.information_state_string()
        if key not in table:
            given = dict(average.action_probabilities(state))
            table[key] = np.array([given[action] for action in state.legal_actions()])
    return from_table(table)
