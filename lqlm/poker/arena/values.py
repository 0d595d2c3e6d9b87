"""Exact values of actions in Kuhn and Leduc, by walks over the game tree that take milliseconds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lqlm.poker.arena.game_tree import GameTree

CHANCE = 2
"""Row of the reach probabilities that belongs to no player."""


def _chances(tree: GameTree, table_SA: np.ndarray) -> np.ndarray:
    """float64 [N], the probability of the step to each node."""
    return np.where(tree.before_N < 0, tree.chance_N, table_SA[tree.before_N, tree.action_N])


def reaches(tree: GameTree, table_SA: np.ndarray) -> np.ndarray:
    """What each player, and chance, contribute to the probability of a history.

    Args:
        tree: of the game.
        table_SA: the policies of both.

    Returns:
        float64 ``[3, N]``: first player, second player, chance; their product is the probability.
    """
    who = np.where(tree.before_N < 0, CHANCE, tree.player_S[tree.before_N])
    steps = np.where(np.arange(3)[:, None] == who, _chances(tree, table_SA), 1.0)
    reach = np.ones_like(steps)
    for level in tree.levels[1:]:
        reach[:, level] = reach[:, tree.parent_N[level]] * steps[:, level]
    return reach


def own_reach(tree: GameTree, table_SA: np.ndarray) -> np.ndarray:
    """float64 ``[S]``, the probability that a player's own actions lead to a state, if all others' do."""
    return reaches(tree, table_SA)[tree.player_S, tree.node_S]


def node_values(tree: GameTree, table_SA: np.ndarray) -> np.ndarray:
    """float64 ``[N]``, what the first player wins from each node on, in antes."""
    values, chances = tree.payoff_N.copy(), _chances(tree, table_SA)
    for level in reversed(tree.levels[1:]):
        values += _sums(tree.parent_N[level], chances[level] * values[level], len(values))
    return values


def _sums(places: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(places, values, count)


def value(tree: GameTree, table_SA: np.ndarray) -> float:
    """What the first player wins, in antes per hand.

    >>> from lqlm.poker.arena.game_tree import game_tree, table_of
    >>> from lqlm.poker.arena.small_games import uniform
    >>> tree = game_tree("kuhn")
    >>> round(value(tree, table_of(tree, uniform)), 4)
    0.125
    """
    return float(node_values(tree, table_SA)[0])


@dataclasses.dataclass(frozen=True, eq=False)
class ActionValues:
    """What actions are worth to the player who chooses.

    Attributes:
        values_SA: ``q(s, a) = sum_h w(h) q(h, a) / sum_h w(h)`` over the histories of a state, with
            ``w = reach of chance and opponent``; 0 at what is not legal, and where the opponent never leads.
        reach_S: ``sum_h w(h)``, so that ``reach_S * values_SA`` are the counterfactual values of CFR (Zinkevich et
            al. 2007).
    """

    values_SA: np.ndarray
    reach_S: np.ndarray


def action_values(tree: GameTree, table_SA: np.ndarray) -> ActionValues:
    """The exact value of every action, to play on by the table afterwards; its own player's reach does not matter.

    Args:
        tree: of the game.
        table_SA: the policies of both.
    """
    counterfactual = _counterfactual(tree, table_SA, node_values(tree, table_SA), slice(1, None))
    weights = _weights(tree, table_SA)[1:]
    first = (tree.before_N[1:] >= 0) & (tree.action_N[1:] == 0)  # one child of each decision
    reach = _sums(tree.before_N[1:][first], weights[first], len(tree.states))
    values = np.divide(counterfactual, reach[:, None], out=np.zeros_like(counterfactual), where=reach[:, None] > 0)
    return ActionValues(values, reach)


def _weights(tree: GameTree, table_SA: np.ndarray) -> np.ndarray:
    """float64 [N], reach of chance and opponent at the decision that leads to each node; 0 behind chance."""
    reach = reaches(tree, table_SA)[:, tree.parent_N]
    opponent = reach[1 - tree.player_S[tree.before_N], np.arange(len(tree.parent_N))]
    return np.where(tree.before_N < 0, 0.0, reach[CHANCE] * opponent)


def _counterfactual(tree: GameTree, table_SA: np.ndarray, values_N: np.ndarray, nodes: slice) -> np.ndarray:
    """float64 [S, A], ``sum_h w(h) q(h, a)`` over those of the nodes that follow a decision."""
    weights, before, shape = _weights(tree, table_SA)[nodes], tree.before_N[nodes], table_SA.shape
    signs = 1.0 - 2.0 * tree.player_S[before]
    chosen = before >= 0
    places = (before * shape[1] + tree.action_N[nodes])[chosen]
    return _sums(places, (weights * signs * values_N[nodes])[chosen], table_SA.size).reshape(shape)


def best_response(tree: GameTree, table_SA: np.ndarray, player: int) -> tuple[float, np.ndarray]:
    """What a player can win at most from the other one's policy, and how.

    Args:
        tree: of the game.
        table_SA: of which only the opponent's rows count.
        player: 0 or 1.

    Returns:
        Antes per hand; and the table with the player's rows replaced.
    """
    table, values = table_SA.copy(), tree.payoff_N.copy()
    for level in reversed(tree.levels[1:]):
        rows = np.unique(tree.before_N[level])
        rows = rows[(rows >= 0) & (tree.player_S[rows] == player)]
        found = np.where(tree.legal_SA, _counterfactual(tree, table_SA, values, level), -np.inf)[rows]
        table[rows] = np.arange(table.shape[1]) == found.argmax(axis=1)[:, None]
        values += _sums(tree.parent_N[level], _chances(tree, table)[level] * values[level], len(values))
    return float(values[0] * (1 - 2 * player)), table


def best_gain(tree: GameTree, table_SA: np.ndarray) -> float:
    """What the best opponent wins from a policy, the mean of both seats: its exploitability."""
    return (best_response(tree, table_SA, 0)[0] + best_response(tree, table_SA, 1)[0]) / 2


def average_policy(tree: GameTree, tables: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The policy that plays like a draw of one policy for the whole hand.

    ``pi(a | s) = sum_k w_k x_k(s) pi_k(a | s) / sum_k w_k x_k(s)`` with x_k(s) the reach by the player's own actions
    (Heinrich et al. 2015, "Fictitious self-play in extensive-form games", theorem 7).

    Args:
        tree: of the game.
        tables: K times ``[S, A]``.
        weights: K, none less than 0.

    Returns:
        float64 ``[S, A]``; uniform over the legal actions where none of them leads.
    """
    total = sum((weighted_policy(tree, *pair) for pair in zip(tables, weights, strict=True)), np.zeros(1))
    return normalised(tree, total)


def weighted_policy(tree: GameTree, table_SA: np.ndarray, weight: float) -> np.ndarray:
    """``w x(s) pi(a | s)``, the summand of :func:`average_policy`; float64 ``[S, A]``."""
    return weight * own_reach(tree, table_SA)[:, None] * table_SA


def normalised(tree: GameTree, total_SA: np.ndarray) -> np.ndarray:
    """Rows that sum to 1; uniform over the legal actions where there is nothing to share."""
    sums, legal = total_SA.sum(axis=1, keepdims=True), tree.legal_SA / tree.legal_SA.sum(axis=1, keepdims=True)
    return np.where(sums > 0, total_SA / np.where(sums > 0, sums, 1.0), legal)
