"""The whole tree of Kuhn or Leduc as arrays, and policies as tables over its states.

A table ``[S, A]`` holds the policies of both players: every information state belongs to one of them.  States that
differ in suits alone are one here, 288 in Leduc: suits decide nothing.
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from lqlm.poker.arena.small_games import InformationState, Policy, information_states, load_game, tabulate


@dataclasses.dataclass(frozen=True, eq=False)
class GameTree:
    """Every history of a game, its N nodes in order of their depth.

    Attributes:
        game: "kuhn" or "leduc".
        states: S information states without suits, in the order in which play reaches them.
        row: of each of OpenSpiel's texts of an information state.
        legal_SA: bool, whether a state has that many actions.
        player_S: int, who decides.
        levels: the nodes of each depth; the root is the first.
        parent_N: int, the node before; 0 of the root.
        before_N: int, the information state in which the action that leads here is chosen; -1: chance.
        action_N: int, the place of that action among the state's; 0 behind chance.
        chance_N: probability of the draw that leads here; 1 behind a decision.
        payoff_N: what the first player has won, in antes; 0 where play goes on.
        node_S: int, a node at which that state is.
    """

    game: str
    states: tuple[InformationState, ...]
    row: dict[str, int]
    legal_SA: np.ndarray
    player_S: np.ndarray
    levels: tuple[slice, ...]
    parent_N: np.ndarray
    before_N: np.ndarray
    action_N: np.ndarray
    chance_N: np.ndarray
    payoff_N: np.ndarray
    node_S: np.ndarray


def _sight(state: InformationState) -> Hashable:
    return state.player, state.card, state.public, state.rounds


@functools.cache
def game_tree(game: str) -> GameTree:
    """The tree of a game.

    >>> tree = game_tree("kuhn")
    >>> len(tree.states), len(tree.parent_N), len(game_tree("leduc").states)
    (12, 58, 288)
    """
    rows: dict[Hashable, int] = {}
    row = {state.key: rows.setdefault(_sight(state), len(rows)) for state in information_states(game)}
    one_of = {row[state.key]: state for state in reversed(information_states(game))}
    states = tuple(one_of[at] for at in range(len(rows)))
    nodes, levels = _nodes(game, row)
    parent, before, action, chances, payoff = (np.array(column) for column in zip(*nodes))
    node_S = np.zeros(len(states), int)
    node_S[before[before >= 0]] = parent[before >= 0]
    counts = np.array([len(state.actions) for state in states])
    legal, player = np.arange(counts.max()) < counts[:, None], np.array([state.player for state in states])
    return GameTree(game, states, row, legal, player, levels, parent, before, action, chances, payoff, node_S)


def _nodes(game: str, row: Mapping[str, int]) -> tuple[list[tuple[int, int, int, float, float]], tuple[slice, ...]]:
    """Parent, state before, action, chance and payoff of every node, level by level."""
    nodes, levels = [(0, -1, 0, 1.0, 0.0)], [slice(0, 1)]
    level = [(0, load_game(game)[1].new_initial_state())]
    while level:
        found = [(at, *one) for at, history in level for one in _children(history, row)]
        following = enumerate((child for *_, child in found), len(nodes))
        level = [(at, child) for at, child in following if not child.is_terminal()]
        nodes += [(*one, child.returns()[0] if child.is_terminal() else 0.0) for *one, child in found]  # type: ignore[misc]
        levels.append(slice(levels[-1].stop, len(nodes)))
    return nodes, tuple(levels)


def _children(history: Any, row: Mapping[str, int]) -> list[tuple[int, int, float, Any]]:
    """State before, place of the action, chance, and the history after it."""
    if history.is_chance_node():
        return [(-1, 0, chance, history.child(action)) for action, chance in history.chance_outcomes()]
    before = row[history.information_state_string()]
    return [(before, place, 1.0, history.child(action)) for place, action in enumerate(history.legal_actions())]


def table_of(tree: GameTree, policy: Policy) -> np.ndarray:
    """A policy as float64 ``[S, A]``, 0 at what is not legal; of states that differ in suits, the first one's.

    Raises:
        UserError: when what it gives at a state is no distribution over the actions there.
    """
    rows = tabulate(tree.game, policy)
    table = np.zeros(tree.legal_SA.shape)
    for at, state in enumerate(tree.states):
        table[at, : len(state.actions)] = rows[state.key]
    return table


def policy_of(tree: GameTree, table_SA: np.ndarray) -> Policy:
    """The policy of a table."""
    return lambda state: table_SA[tree.row[state.key], : len(state.actions)]


def facing(tree: GameTree, table_SA: np.ndarray, other_SA: np.ndarray, player: int) -> np.ndarray:
    """A table in which one player plays the first policy and the opponent the other one."""
    return np.where((tree.player_S == player)[:, None], table_SA, other_SA)
