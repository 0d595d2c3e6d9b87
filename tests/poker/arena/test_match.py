import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.poker.arena.bots import LOOSE, TIGHT, CallBot, RandomBot
from lqlm.poker.arena.estimates import bootstrap, mean_interval, without_controls
from lqlm.poker.arena.luck import luck_of
from lqlm.poker.arena.match import DECK, LUCK, mbb, play_match, stream
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.showdowns import boards_to_come, equity_against_one, expected_chips, winners
from lqlm.poker.arena.table import Deal, deal, play_hand
from lqlm.poker.cards import cards
from lqlm.poker.record import Act, ActKind, Game


class Shoves:
    """Checks and calls until a street, and bets everything there."""

    def __init__(self, street):
        self.street = street

    def act(self, observation, rng):
        if observation.street >= self.street and observation.legal.most:
            return Act(observation.seat, ActKind.RAISE, 10**9)
        return CallBot().act(observation, rng)


def generators(count, seed=0):
    return [np.random.default_rng([seed, at, 1]) for at in range(count)]


def endings(street, players, seed):
    """Deals that differ only in the cards after a street, all of them."""
    dealt = deal(np.random.default_rng(seed), players, 2)
    shown = {1: 3, 2: 4}[street]
    gone = {*dealt.board[:shown], *itertools.chain(*dealt.holes)}
    rest = [card for card in range(52) if card not in gone]
    return [Deal(dealt.holes, dealt.board[:shown] + more) for more in itertools.permutations(rest, 5 - shown)]


@pytest.mark.parametrize(("street", "players"), [(2, 2), (2, 4)])
def test_all_in_luck_is_zero_on_average_over_all_boards(street, players):
    stacks = [1000 * (i + 1) for i in range(players)]
    hands = [
        play_hand(Rules(), [Shoves(street)] * players, dealt, generators(players), stacks=stacks)
        for dealt in endings(street, players, 3)
    ]
    luck = np.array([luck_of(played.hand, np.random.default_rng(0)).all_in for played in hands])
    chips = np.array([played.chips for played in hands], float)
    assert np.abs(luck).max() > 100
    np.testing.assert_allclose(luck.mean(0), 0, atol=1e-6)
    if players == 2:  # what is left does not vary: it is the expectation
        assert (chips - luck).std(0).max() < 1e-6 < chips.std(0).max()


def test_river_luck_is_zero_on_average_while_there_is_betting():
    hands = [play_hand(Rules(), [CallBot()] * 3, dealt, generators(3)) for dealt in endings(2, 3, 5)]
    lucks = [luck_of(played.hand, np.random.default_rng(0)) for played in hands]
    terms = np.array([luck.terms for luck in lucks])
    assert not any(luck.all_in.any() for luck in lucks)
    np.testing.assert_allclose(terms[:, 3].mean(0), 0, atol=1e-9)
    assert terms[:, 3].std(0).min() > 1


def test_luck_of_all_players_cancels():
    for seed in range(5):
        played = play_hand(Rules(), [RandomBot()] * 3, deal(np.random.default_rng(seed), 3, 2), generators(3, seed))
        luck = luck_of(played.hand, np.random.default_rng(0))
        np.testing.assert_allclose(luck.terms.sum(1), 0, atol=1e-9)
        assert abs(luck.all_in.sum()) < 1e-9


def test_an_agent_wins_nothing_from_itself_in_a_duplicate_match():
    for agent, others in ((LOOSE, 2), (RandomBot(), 1)):
        match = play_match(Rules(), agent, [agent] * others, 6, 0, samples=16)
        assert match.chips.any() and not match.chips.sum(1).any()
        for name, estimate in mbb(match).items():
            assert abs(estimate.mean) < 1e-9 and (name == "hands" or estimate.half < 1e-9)


def test_no_two_streams_are_the_same():
    """numpy pads seeds with zeros: the cards of a deal must not come from the numbers of its first seat."""
    found = [stream(*at).random() for at in itertools.product((0, 1, 2), (0, 1, 2), (0, 1, 9, DECK, LUCK))]
    assert len(set(found)) == len(found)


def test_a_match_is_the_same_again_and_counts_its_hands():
    one, two = (play_match(Rules(), TIGHT, [CallBot(), RandomBot()], 3, 7, samples=16) for _ in range(2))
    assert (one.chips == two.chips).all() and (one.terms == two.terms).all()
    assert one.hands == 9 and one.illegal == 0 and one.decisions > 0


def test_omaha_is_played_and_adjusted():
    match = play_match(Rules(game=Game.OMAHA), RandomBot(), [CallBot()], 20, 0, samples=16)
    assert match.all_in.any() or match.terms.any()


def test_every_estimator_has_the_same_mean():
    match = play_match(Rules(), RandomBot(), [CallBot()], 250, 0, samples=16)
    scale = 1000 / match.big_blind
    raw = match.chips.mean(1) * scale
    settled = raw - match.all_in.mean(1) * scale
    adjusted = without_controls(settled, match.terms.mean(1) * scale)
    for other in (settled, adjusted):
        difference = mean_interval(raw - other)
        assert abs(difference.mean) < 1.5 * difference.half  # three standard errors
    estimates = mbb(match)
    assert estimates["all-in"].half < estimates["duplicate"].half < estimates["hands"].half


def experiments(rng, count, groups):
    """Winnings of mean 3 with two controls of mean 0 and heavy tails, again and again."""
    controls = rng.laplace(size=(count, groups, 2))
    noise = rng.standard_t(5, size=(count, groups))
    return 3 + 2 * controls[..., 0] - controls[..., 1] + noise, controls


def test_intervals_cover_and_controls_leave_the_mean():
    values, controls = experiments(np.random.default_rng(0), 800, 130)
    plain = [mean_interval(row) for row in values]
    better = [mean_interval(without_controls(row, z)) for row, z in zip(values, controls)]
    for found in (plain, better):
        covered = np.mean([abs(e.mean - 3) <= e.half for e in found])
        assert 0.925 < covered < 0.975  # 95%, five in a thousand wrong alarms of 1000 draws
        means = np.array([e.mean for e in found])
        assert abs(means.mean() - 3) < 4 * means.std() / np.sqrt(len(means))
    assert np.mean([e.half for e in better]) < 0.5 * np.mean([e.half for e in plain])


def test_few_values_are_left_as_they_are():
    values = np.arange(12.0)
    assert (without_controls(values, np.ones((12, 4))) == values).all()


def test_the_bootstrap_draws_whole_clusters():
    level = np.random.default_rng(1).normal(size=30)
    sums = np.stack([10 * level, np.full(30, 10)], 1)  # ten equal values in each cluster
    ((low, high),) = bootstrap(sums, lambda total: total[:1] / total[1:], np.random.default_rng(0), 400)
    expected = mean_interval(level)
    assert low < expected.mean < high
    assert (high - low) / 2 == pytest.approx(expected.half, rel=0.25)


def test_the_bootstrap_of_few_clusters_covers_as_students_interval_does():
    rng, found = np.random.default_rng(2), []
    for values in rng.normal(size=(300, 7)):
        sums = np.stack([values, np.ones(7)], 1)
        ((low, high),) = bootstrap(sums, lambda total: total[:1] / total[1:], rng, 300)
        found.append((low <= 0 <= high, (high - low) / 2 / mean_interval(values).half))
    covered, width = np.mean(found, axis=0)
    assert 0.91 < covered < 0.98 and 0.85 < width < 1.05  # plain percentiles: 0.87 and 0.72


def test_one_cluster_says_nothing_of_its_spread():
    found = bootstrap(np.ones((1, 2)), lambda total: total[:1] / total[1:], np.random.default_rng(0))
    np.testing.assert_array_equal(found, [[-np.inf, np.inf]])


def test_boards_to_come_are_all_where_few_and_fit_otherwise():
    board, gone = cards("2c3d4h"), cards("2c3d4hAsAhKsKh")
    every = boards_to_come(board, gone, np.random.default_rng(0), 10)
    assert len(every) == 45 * 44 // 2 and len(np.unique(np.sort(every[:, 3:]), axis=0)) == len(every)
    some = boards_to_come((), gone, np.random.default_rng(0), 10)
    assert some.shape == (10, 5)
    for row in (*every, *some):
        assert len(set(row)) == 5 and not {int(card) for card in row[3:]} & set(gone)


def test_odd_chips_go_to_the_first_winner():
    tie = winners([cards("2c3c"), cards("2d3d"), cards("2h4h")], np.array([cards("AsKsQsJsTs")]))
    np.testing.assert_array_equal(expected_chips(tie, 101), [35, 33, 33])


@given(seed=st.integers(0, 100))
def test_equity_against_one_is_what_exact_tables_say(seed):
    found = equity_against_one(cards("AsAh"), (), np.random.default_rng(seed), 3000)
    assert abs(found - 0.8520) < 5 * 0.5 / np.sqrt(3000)
