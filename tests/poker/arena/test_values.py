"""Values by walks over the game tree, against OpenSpiel's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.poker.arena.game_tree import facing, game_tree, policy_of, table_of
from lqlm.poker.arena.language import small_game_prompt
from lqlm.poker.arena.small_bots import RAISES, small_leaks, without
from lqlm.poker.arena.small_games import (
    GAMES,
    always_call,
    cfr_plus,
    expected_value,
    exploitability,
    information_states,
    uniform,
)
from lqlm.poker.arena.values import action_values, average_policy, best_gain, best_response, own_reach, reaches, value

EACH = pytest.mark.parametrize("game", GAMES)
SEEDS = st.integers(0, 2**16)


def random_table(tree, seed, pure=False):
    """A policy of random probabilities, many of them small; or one that never mixes."""
    draws = np.where(tree.legal_SA, np.random.default_rng(seed).gamma(0.5, 1.0, tree.legal_SA.shape) + 1e-9, 0.0)
    if pure:
        return (np.arange(draws.shape[1]) == draws.argmax(axis=1)[:, None]).astype(float)
    return draws / draws.sum(axis=1, keepdims=True)


def mean_value(tree, table, other):
    return (value(tree, facing(tree, table, other, 0)) - value(tree, facing(tree, table, other, 1))) / 2


@EACH
def test_states_are_prompts(game):
    tree = game_tree(game)
    assert len({small_game_prompt(one) for one in tree.states}) == len(tree.states) == {"kuhn": 12, "leduc": 288}[game]
    for one in information_states(game):
        assert small_game_prompt(one) == small_game_prompt(tree.states[tree.row[one.key]])
    assert [len(one.actions) for one in tree.states] == tree.legal_SA.sum(axis=1).tolist()


@EACH
@pytest.mark.parametrize("pure", [False, True])
def test_values_and_best_responses_equal_openspiels(game, pure):
    tree = game_tree(game)
    one, other = random_table(tree, 1, pure), random_table(tree, 2)
    policies = policy_of(tree, one), policy_of(tree, other)
    assert mean_value(tree, one, other) == pytest.approx(expected_value(game, *policies), abs=1e-12)
    assert best_gain(tree, one) == pytest.approx(exploitability(game, policies[0]), abs=1e-12)
    np.testing.assert_allclose(table_of(tree, policies[0]), one, atol=1e-12)


@pytest.mark.parametrize(
    ("game", "policy", "known"), [("kuhn", uniform, 0.4583), ("leduc", uniform, 2.3736), ("leduc", always_call, 1.4667)]
)
def test_exploitability_is_what_is_known(game, policy, known):
    tree = game_tree(game)
    assert best_gain(tree, table_of(tree, policy)) == pytest.approx(known, abs=1e-4)


@given(SEEDS, st.sampled_from(sorted(GAMES)), st.integers(0, 287))
def test_an_actions_value_is_what_playing_it_brings(seed, game, at):
    """OpenSpiel-free: the value of the game changes by ``own reach * counterfactual reach * (q(a) - q(pi))``."""
    tree = game_tree(game)
    at %= len(tree.states)
    table, player = random_table(tree, seed), tree.player_S[at]
    found, own = action_values(tree, table), own_reach(tree, table)[at]
    before = value(tree, table)
    for action in np.flatnonzero(tree.legal_SA[at]):
        played = table.copy()
        played[at] = np.arange(table.shape[1]) == action
        gained = (value(tree, played) - before) * (1 - 2 * player)
        wanted = own * found.reach_S[at] * (found.values_SA[at, action] - table[at] @ found.values_SA[at])
        assert gained == pytest.approx(wanted, abs=1e-12)


def test_against_an_equilibrium_no_action_is_worth_more():
    tree = game_tree("kuhn")
    solved = table_of(tree, cfr_plus("kuhn", 1000))
    found = action_values(tree, solved)
    best = np.where(tree.legal_SA, found.values_SA, -np.inf).max(axis=1)
    regret = found.reach_S * own_reach(tree, solved) * (best - (solved * found.values_SA).sum(axis=1))
    assert regret.min() > -1e-12 and regret.max() < 1e-3
    np.testing.assert_array_equal(found.values_SA[~tree.legal_SA], 0.0)


@EACH
def test_a_state_that_the_opponent_never_leads_to_has_no_values(game):
    tree = game_tree(game)
    found = action_values(tree, table_of(tree, always_call))
    assert (found.reach_S == 0).any() and np.isfinite(found.values_SA).all()
    np.testing.assert_array_equal(found.values_SA[found.reach_S == 0], 0.0)


@given(SEEDS, st.sampled_from(sorted(GAMES)))
def test_reaches_are_probabilities(seed, game):
    tree = game_tree(game)
    reach = reaches(tree, random_table(tree, seed)).prod(axis=0)
    ends = ~np.isin(np.arange(len(reach)), tree.parent_N)
    assert reach[ends].sum() == pytest.approx(1.0) and (tree.payoff_N[~ends] == 0).all()


@EACH
def test_the_average_plays_like_a_draw_for_the_whole_hand(game):
    """Linear in each player's policy: its value against anybody is the mean of the values."""
    tree = game_tree(game)
    tables, weights = [random_table(tree, seed) for seed in (1, 2, 3)], [1.0, 2.0, 5.0]
    mean, other = average_policy(tree, tables, weights), random_table(tree, 4)
    each = [mean_value(tree, table, other) for table in tables]
    assert mean_value(tree, mean, other) == pytest.approx(np.average(each, weights=weights))
    plain = np.average(tables, axis=0, weights=weights)
    assert mean_value(tree, plain, other) != pytest.approx(np.average(each, weights=weights))
    np.testing.assert_allclose(average_policy(tree, tables[:1], [3.0]), tables[0])


@EACH
def test_a_best_response_is_pure_and_wins_what_it_says(game):
    tree = game_tree(game)
    table = random_table(tree, 5)
    for player in (0, 1):
        won, answer = best_response(tree, table, player)
        assert value(tree, answer) * (1 - 2 * player) == pytest.approx(won)
        assert set(np.unique(answer[tree.player_S == player])) == {0.0, 1.0}
        np.testing.assert_array_equal(answer[tree.player_S != player], table[tree.player_S != player])


@EACH
def test_bots_with_leaks_leak(game):
    bots = small_leaks(uniform)
    for state in information_states(game):
        chances = {name: dict(zip(state.words, bot(state))) for name, bot in bots.items()}
        assert all(sum(row.values()) == pytest.approx(1) for row in chances.values())
        assert not any(chances["never-raises"].get(word) for word in RAISES)
        if "fold" in state.words:
            assert chances["folds-to-a-bet"]["fold"] == 1
        raised = [word for word in RAISES if word in state.words]
        assert not raised or chances["always-raises"][raised[0]] == 1
    tree = game_tree(game)
    assert all(best_gain(tree, table_of(tree, bot)) > 0.1 for bot in bots.values())
    np.testing.assert_array_equal(without(uniform, ["shout"], ["call"])(state), uniform(state))


def test_a_policy_that_is_none_is_named():
    with pytest.raises(UserError, match="is no distribution"):
        table_of(game_tree("kuhn"), lambda state: np.array([0.5, 0.6]))
