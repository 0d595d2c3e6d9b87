"""Equity equals brute force over phevaluator and eval7's enumeration, and random deals are deals."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phevaluator import _pheval

from lqlm.errors import UserError
from lqlm.poker.cards import DECK, cards
from lqlm.poker.deals import allotted, bounded, card_at, deal_ranges, draw, insert, pair_of, position_of, words_for
from lqlm.poker.equity import counted, equity_of, exact_equity, pair_equities, range_equity
from lqlm.poker.monte_carlo import MonteCarloConfig, monte_carlo_equity
from lqlm.poker.showdown import BOARDS_PER_CALL, against_pairs, completions, runouts, simulate, winner_bits
from lqlm.poker.tables import pair_index, pairs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # eval7 0.1.11 calls pyparsing by its old names
    import eval7

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FEW = MonteCarloConfig(samples=20_000, block=1024)


def brute_force(hands, board):
    """Shares of the pot over every completion, in plain Python."""
    live = [card for card in range(52) if card not in {*board, *itertools.chain(*hands)}]
    total = np.zeros(len(hands))
    runs = list(itertools.combinations(live, 5 - len(board)))
    omaha = len(hands[0]) == 4
    for run in runs:
        full = (*board, *run)
        ranks = np.array(
            [_pheval.evaluate_omaha_cards(*full, *h) if omaha else _pheval.evaluate_7cards(*h, *full) for h in hands]
        )
        total += (ranks == ranks.min()) / (ranks == ranks.min()).sum()
    return total / len(runs), len(runs)


@pytest.mark.parametrize(
    ("hands", "board"),
    [
        ("AsAh KsKh", "Kd 7c 2s"),
        ("AsKs QdQc 7h6h", "9h 8h 2s"),
        ("AsKs AdKd AhKh AcKc", "Qs Jd 2h 3c"),
        ("AsKs AdKd", "Qs Jd Th 2c 3c"),
        ("AsAhKsKh 9d8d7c6c", "Td 5h 2c"),
        ("AsAhKsKh 9d8d7c6c QsQcJsJc", "Td 5h 2c 9h"),
    ],
)
def test_known_hands_equal_brute_force(hands, board):
    holes = [cards(hand) for hand in hands.split()]
    found = exact_equity(holes, cards(board))
    expected, runs = brute_force(holes, cards(board))
    np.testing.assert_allclose(found.equity, expected, atol=1e-12)
    assert found.deals == runs and not found.standard_error.any()
    assert (found.win <= found.equity).all() and (found.equity <= found.win + found.tie + 1e-12).all()


def test_aces_against_kings_before_the_flop_equal_eval7():
    found = exact_equity([cards("AsAh"), cards("KsKh")])
    kings = eval7.HandRange("KsKh")
    peer = eval7.py_hand_vs_range_monte_carlo(list(map(eval7.Card, ("As", "Ah"))), kings, [], 2_000_000)
    assert found.deals == 1_712_304
    assert found.equity[0] == pytest.approx(0.8263661, abs=1e-7)  # as counted when it was written
    assert found.equity[0] == pytest.approx(peer, abs=4 * 0.38 / 2_000_000**0.5)


@pytest.mark.parametrize("board", ["Ah 7c 2s", "Ah 7c 2s 9d", "Ah 7c 2s 9d 9c"])
def test_a_range_equals_eval7(board):
    hole, shared = ("As", "Kd"), board.split()
    text = "77+, A5s, KQo, JTs"
    members = [tuple(map(str, hand)) for hand, _ in eval7.HandRange(text).hands]
    weights = np.zeros(1326)
    weights[[pair_index(*cards("".join(hand))) for hand in members]] = 1.0
    found = range_equity(cards("AsKd"), weights, cards(board))
    peers = list(map(eval7.Card, hole)), eval7.HandRange(text), list(map(eval7.Card, shared))
    if len(shared) == 5:  # its exact function plays no cards to come
        assert found.equity[0] == pytest.approx(eval7.py_hand_vs_range_exact(*peers), abs=1e-6)
    else:
        assert found.equity[0] == pytest.approx(eval7.py_hand_vs_range_monte_carlo(*peers, 1_000_000), abs=0.002)
    simulated = monte_carlo_equity(jax.random.key(0), [weights, cards("AsKd")], cards(board), cfg=FEW)
    assert abs(simulated.equity[1] - found.equity[0]) <= 4 * simulated.standard_error[1] + 1e-9


def test_weights_count_and_dead_cards_go():
    hole, board = cards("AsKd"), cards("Ah 7c 2s 9d")
    weights = np.random.default_rng(0).random(1326)
    win, tie, possible = pair_equities(hole, board, dead=cards("Ac"))
    gone = {*hole, *board, *cards("Ac")}
    assert [bool(p) for p in possible] == [not gone & set(pair) for pair in pairs().tolist()]
    each = win + tie / 2
    for i in np.flatnonzero(possible)[::97]:
        alone = exact_equity([hole, tuple(pairs()[i].tolist())], board, dead=cards("Ac")).equity[0]
        assert each[i] == pytest.approx(alone, abs=1e-12)
    mean = np.sum(each * weights * possible) / np.sum(weights * possible)
    assert range_equity(hole, weights, board, cards("Ac")).equity[0] == pytest.approx(mean, abs=1e-12)


def test_random_hands_are_a_range_of_all():
    hole, board = cards("AsKd"), cards("Ah 7c 2s")
    exact = range_equity(hole, np.ones(1326), board).equity[0]
    for players in ([hole, None], [hole, np.ones(1326)]):
        found = monte_carlo_equity(jax.random.key(1), players, board, cfg=FEW)
        assert abs(found.equity[0] - exact) < 4 * found.standard_error[0]
        assert found.standard_error[0] == pytest.approx(np.sqrt(exact * (1 - exact) / FEW.samples), rel=0.2)


def test_ranges_collide_as_their_product_says():
    """Two ranges that share an ace: the joint weight of each pair of disjoint hands is the product."""
    hands = ["AsAh", "KsKh", "AsKs", "AhKd", "QcJc"]
    weights = np.zeros((2, 1326))
    first = {cards(h): w for h, w in zip(hands, (1.0, 0.5, 0.25, 1.0, 0.75))}
    second = {cards(h): w for h, w in zip(hands, (0.5, 1.0, 1.0, 0.25, 0.5))}
    for row, holding in zip(weights, (first, second)):
        for hole, weight in holding.items():
            row[pair_index(*hole)] = weight
    board, hero = cards("Ad 7c 2s 9d 3h"), cards("9c9h")
    total, shares = 0.0, np.zeros(3)
    for (one, w), (two, v) in itertools.product(first.items(), second.items()):
        if not set(one) & set(two):
            total += w * v
            shares += w * v * exact_equity([one, hero, two], board).equity
    found = monte_carlo_equity(jax.random.key(2), [weights[0], hero, weights[1]], board, cfg=FEW)
    assert 0 < found.deals < FEW.samples
    assert (abs(found.equity - shares / total) < 4 * found.standard_error + 1e-9).all()


@pytest.mark.parametrize(("players", "holes"), [(10, 2), (3, 4)])
def test_random_players_are_equal(players, holes):
    cfg = MonteCarloConfig(samples=20_000, block=1024, holes=holes)
    found = monte_carlo_equity(jax.random.key(3), [None] * players, cfg=cfg)
    assert (abs(found.equity - 1 / players) < 4.5 * found.standard_error).all()
    assert found.equity.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.deals == cfg.samples


def test_the_same_key_gives_the_same_and_another_number_of_samples_compiles_nothing():
    players = [cards("AsKd"), None]
    one, same, other = (monte_carlo_equity(jax.random.key(k), players, cfg=FEW) for k in (0, 0, 1))
    compiled = simulate._cache_size()
    assert one.equity[0] == same.equity[0] != other.equity[0]
    few = monte_carlo_equity(jax.random.key(0), players, cfg=MonteCarloConfig(samples=1500, block=1024))
    assert few.deals == 1500 and simulate._cache_size() == compiled


def test_simulate_is_a_function_that_can_be_mapped():
    hands = jnp.asarray([cards("AsKd"), cards("7h2c")], jnp.int32)[:, None]
    none = jnp.zeros((0, 2048), jnp.int16)
    board = jnp.zeros(0, jnp.int32)

    def one(hand):
        call = (none, board, jnp.sort(hand[0]), jnp.int32(2000))
        return simulate(jax.random.key(0), hand, *call, random=1, holes=2, block=1024)

    mapped = jax.vmap(one)(hands)
    for i, hand in enumerate(hands):
        alone = one(hand)
        np.testing.assert_array_equal(mapped[i], alone)
        assert set(np.unique(alone[:2000])) == {1, 2, 3}  # he wins, the other does, both do


def test_drawn_positions_are_uniform_and_without_repetition():
    bits = jax.random.bits(jax.random.key(0), (words_for(5), 60_000), jnp.uint32)
    drawn = np.stack(draw(bits, 7, 5))
    assert (np.diff(np.sort(drawn, axis=0), axis=0) > 0).all() and drawn.min() == 0 and drawn.max() == 6
    orders = np.unique(drawn, axis=1, return_counts=True)[1]
    assert len(orders) == 7 * 6 * 5 * 4 * 3
    expected = 60_000 / 2520
    assert ((orders - expected) ** 2 / expected).sum() < 2520 + 5 * (2 * 2520) ** 0.5  # chi squared


def test_positions_pass_what_is_taken():
    taken = [jnp.int32(c) for c in (3, 4, 10, 51)]
    found = np.asarray(card_at(jnp.arange(48, dtype=jnp.uint8), taken))
    assert found.tolist() == [c for c in range(52) if c not in (3, 4, 10, 51)]
    np.testing.assert_array_equal(position_of(jnp.asarray(found), taken), np.arange(48))
    assert [int(c) for c in insert(taken, jnp.int32(7))] == [3, 4, 7, 10, 51]


def test_bounded_is_the_high_word_of_the_product():
    bits = jax.random.bits(jax.random.key(0), (1000,), jnp.uint32)
    index, rest = bounded(bits, 1326)
    whole = np.asarray(bits).astype(object) * 1326
    np.testing.assert_array_equal(index, (whole // 2**32).astype(np.int64))
    np.testing.assert_array_equal(rest, (whole % 2**32).astype(np.int64))


@example(5000, 1 - 2**-53, 0)
@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True), st.integers(0, 100))
def test_every_pair_is_dealt_as_often_as_its_weight_says(rows, offset, seed):
    generator = np.random.default_rng(seed)
    weights = generator.random(1326) * (generator.random(1326) < generator.random())
    weights[seed] = 1.0
    high, low = map(np.asarray, pair_of(jnp.asarray(allotted(weights, rows, offset))))
    found = np.bincount([pair_index(*pair) for pair in zip(high.tolist(), low.tolist())], minlength=1326)
    assert found.sum() == rows and not found[weights == 0].any()
    assert (abs(found - rows * weights / weights.sum()) < 1 + 1e-6).all()


def test_over_offsets_a_pair_is_dealt_its_share_exactly():
    weights = np.zeros(1326)
    weights[[3, 100, 700]] = 1.0, 2.0, 4.0
    first = int(allotted(weights, 1, 0.0)[0])  # one deal: u below 4 / 7 leaves it to the last pair
    dealt = [int(allotted(weights, 1, u)[0]) for u in (np.arange(7000) + 0.5) / 7000]
    assert sorted(np.unique(dealt, return_counts=True)[1]) == [1000, 2000, 4000] and first == dealt[0]


def test_ranges_are_dealt_independently_and_equally_over_all_rows():
    weights = np.zeros((2, 1326))
    weights[:, [10, 500]] = 1.0, 3.0
    dealt = deal_ranges(weights, 4000, 4096, np.random.default_rng(0))
    assert not dealt[:, 4000:].any() and (np.sort(dealt[1, :4000]) == dealt[0, :4000]).all()
    rare = dealt[:, :4000] == dealt[0, 0]
    assert abs(int(rare.all(axis=0).sum()) - 250) < 5 * (250 * 0.75) ** 0.5
    assert not (dealt[1] == deal_ranges(weights, 4000, 4096, np.random.default_rng(1))[1]).all()


@pytest.mark.parametrize(("live", "count"), [(45, 2), (9, 3), (46, 1), (44, 0)])
def test_completions_are_all_choices(live, count):
    rows = list(itertools.combinations(range(live), count))
    found = completions(live, count)
    assert found.dtype == np.uint8 and found.shape[1] % 4096 == 0
    assert list(map(tuple, found.T[: len(rows)].tolist())) == rows


def test_rows_of_several_calls_add_up():
    hands, board = np.array([cards("AsAh"), cards("KsKh")], np.int32), np.array(cards("Kd"), np.int32)
    gone = np.sort(np.append(hands, board))
    positions = completions(47, 4)
    whole = runouts(hands, board, gone, positions, np.array([0, 178_365], np.int32))
    parts = [runouts(hands, board, gone, positions, np.array(r, np.int32)) for r in ([0, 40_960], [40_960, 178_365])]
    np.testing.assert_array_equal(whole[:178_365], np.concatenate([parts[0][:40_960], parts[1][: 178_365 - 40_960]]))


def test_bits_of_winners_are_counted_as_shares():
    counts = counted(winner_bits([jnp.array([5, 2, 9, 1]), jnp.array([4, 2, 9, 3]), jnp.array([1, 0, 9, 3])]), 3)
    found = equity_of(counts, exact=True)
    np.testing.assert_allclose(
        found.equity, [(1 + 1 / 2 + 1 / 3) / 4, (1 / 2 + 1 / 3 + 1 / 2) / 4, (1 / 3 + 1 / 2) / 4]
    )
    assert found.deals == 4 and found.win.tolist() == [1 / 4, 0, 0] and found.tie.tolist() == [1 / 2, 3 / 4, 1 / 2]
    drawn = equity_of(counts + np.eye(8, dtype=int)[0] * 9, exact=False)  # nine deals that do not count
    shares = np.array([1, 1 / 2, 1 / 3, 0])
    assert drawn.deals == 4 and drawn.standard_error[0] == pytest.approx(shares.std(ddof=1) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_equity([(0, 1), (1, 2)]), "card 1 is there twice"),
        (lambda: exact_equity([(0, 1), (2, 52)]), "52 is no card"),
        (lambda: exact_equity([(0, 1), (2, 3)], (4, 5)), "board has 0, 3, 4 or 5"),
        (lambda: exact_equity([(0, 1), (2, 3, 4, 5)]), "every hand has 2"),
        (lambda: exact_equity([(0, 1)]), "between 2 and 10"),
        (lambda: monte_carlo_equity(jax.random.key(0), [None]), "2 to 10 players"),
        (lambda: monte_carlo_equity(jax.random.key(0), [(0.5, 1), None]), "not float64"),
        (lambda: monte_carlo_equity(jax.random.key(0), [(0, 1), -np.ones(1326)]), "none negative"),
        (lambda: monte_carlo_equity(jax.random.key(0), [(0, 1, 2, 3), np.ones(1326)]), "a range is of pairs"),
        (lambda: range_equity((1, 2), np.eye(1326)[0]), "widen the range"),
        (lambda: range_equity((1, 2, 3, 4), np.ones(1326)), "it has 2"),
        (lambda: monte_carlo_equity(jax.random.key(0), [np.eye(1326)[9]] * 2, cfg=FEW), "no deal gave every player"),
    ],
)
def test_bad_input_is_said_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_numbering_is_that_of_the_peers():
    assert [_pheval.evaluate_5cards(*cards(text)) for text in ("AsKsQsJsTs", "7c5d4h3s2c")] == [1, 7462]
    assert all(eval7.Card(text) for text in DECK)


def test_counts_of_a_whole_call_fit():
    hole, board = np.array(cards("AsAh"), np.int32), np.array(cards("AdAc7h2s"), np.int32)
    gone, rows = np.sort(np.append(hole, board)), np.array([0, BOARDS_PER_CALL], np.int32)
    won, tied = against_pairs(hole, board, gone, np.zeros((1, BOARDS_PER_CALL), np.uint8), rows)
    assert set(np.unique(won)) == {0, BOARDS_PER_CALL} and not np.asarray(tied).any()  # quads, again and again
