"""Strengths equal phevaluator's on every five-card hand, and keep the laws that hands have."""

import itertools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from phevaluator import _pheval

from lqlm.errors import UserError
from lqlm.poker.evaluator import category, check_cards, class_rank, strength
from lqlm.poker.omaha import omaha_strength
from lqlm.poker.tables import class_strengths, pair_index, pairs

PEERS = {5: _pheval.evaluate_5cards, 6: _pheval.evaluate_6cards, 7: _pheval.evaluate_7cards}


def deals(seed: int, rows: int, cards: int, deck: int = 52) -> np.ndarray:
    order = np.random.default_rng(seed).random((rows, deck), np.float32).argsort(axis=1)
    return order[:, :cards].astype(np.int32)


def by_phevaluator(function, *columns: np.ndarray) -> np.ndarray:
    numbers = map(function, *(column.tolist() for column in columns))
    return np.fromiter(numbers, np.int32, len(columns[0]))


def test_all_five_card_hands_equal_phevaluator():
    flat = itertools.chain.from_iterable(itertools.combinations(range(52), 5))
    hands = np.fromiter(flat, np.int32, 5 * 2_598_960).reshape(-1, 5)
    ours = np.asarray(class_rank(strength(hands)))
    np.testing.assert_array_equal(ours, by_phevaluator(PEERS[5], *hands.T))
    # The known numbers of hands by category, and no class without a hand.
    counts = np.bincount(np.asarray(category(strength(hands))))
    assert counts.tolist() == [1302540, 1098240, 123552, 54912, 10200, 5108, 3744, 624, 40]
    assert np.unique(ours).size == 7462


@pytest.mark.parametrize(("cards", "rows"), [(6, 100_000), (7, 1_000_000)])
def test_random_hands_equal_phevaluator(cards, rows):
    hands = deals(cards, rows, cards)
    np.testing.assert_array_equal(np.asarray(class_rank(strength(hands))), by_phevaluator(PEERS[cards], *hands.T))


def test_random_omaha_hands_equal_phevaluator():
    hands = deals(4, 100_000, 9)
    ours = np.asarray(class_rank(omaha_strength(hands[:, :4], hands[:, 4:])))
    peer = by_phevaluator(_pheval.evaluate_omaha_cards, *hands[:, 4:].T, *hands[:, :4].T)
    np.testing.assert_array_equal(ours, peer)


@pytest.mark.parametrize("boards", [3, 4, 5])
@pytest.mark.parametrize("holes", [4, 5, 6])
def test_omaha_is_the_best_of_two_and_three(holes, boards):
    """On a full deck and on one of 16 cards, 2 to 5, where every deal is a made hand."""
    hands = np.concatenate([deals(holes, 4000, holes + boards), deals(boards, 4000, holes + boards, deck=16)])
    choices = itertools.product(
        itertools.combinations(range(holes), 2), itertools.combinations(range(holes, holes + boards), 3)
    )
    best = jnp.max(jnp.stack([strength(hands[:, [*two, *three]]) for two, three in choices]), axis=0)
    np.testing.assert_array_equal(omaha_strength(hands[:, :holes], hands[:, holes:]), best)


@pytest.mark.parametrize("cards", [6, 7])
def test_more_cards_are_worth_their_best_five(cards):
    hands = np.concatenate([deals(1, 3000, cards), deals(2, 3000, cards, deck=20)])
    fives = jnp.stack([strength(hands[:, list(five)]) for five in itertools.combinations(range(cards), 5)])
    np.testing.assert_array_equal(strength(hands), jnp.max(fives, axis=0))


@hypothesis.given(st.permutations(range(7)), st.permutations(range(4)), st.integers(0, 10**6))
def test_neither_order_nor_names_of_suits_count(order, suits, seed):
    hands = deals(seed, 64, 7)
    renamed = hands // 4 * 4 + np.asarray(suits, np.int32)[hands % 4]
    np.testing.assert_array_equal(strength(hands), strength(renamed[:, list(order)]))
    hole, board = renamed[:, :4][:, [3, 1, 0, 2]], renamed[:, 4:][:, [2, 0, 1]]
    np.testing.assert_array_equal(omaha_strength(hands[:, :4], hands[:, 4:]), omaha_strength(hole, board))


def test_eager_vmap_shapes_and_types_agree_and_the_second_call_compiles_nothing():
    hands = jnp.asarray(deals(0, 12, 7))
    found = strength(hands)
    chex.assert_shape(found, (12,))
    chex.assert_type(found, jnp.int32)
    for same in (
        strength(hands.reshape(3, 4, 7)).ravel(),
        jax.vmap(strength)(hands),
        strength(hands.astype(jnp.uint8)),
        jnp.stack([strength(hand) for hand in hands]),
    ):
        np.testing.assert_array_equal(found, same)
    omaha = omaha_strength(hands[:, :4], hands[:, 4:])
    with jax.disable_jit():
        np.testing.assert_array_equal(found, strength(hands))
        np.testing.assert_array_equal(omaha, omaha_strength(hands[:, :4], hands[:, 4:]))
    compiled = strength._cache_size()
    strength(hands + 0)
    assert strength._cache_size() == compiled


def test_tables_are_in_order():
    strengths = class_strengths()
    assert strengths.dtype == np.int32 and (np.diff(strengths) > 0).all()
    np.testing.assert_array_equal(class_rank(strengths), np.arange(7462, 0, -1))
    assert [pair_index(*pair) for pair in pairs().tolist()] == list(range(1326))


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ([3, 3], "card 3 is there twice"),
        ([0, 52], "52 is no card"),
        ([-1, 2], "-1 is no card"),
        ([0.5], "not float64"),
    ],
)
def test_what_is_no_deal_is_said_in_one_line(cards, message):
    with pytest.raises(UserError, match=message) as error:
        check_cards(cards, "the board")
    assert "\n" not in str(error.value) and str(error.value).startswith("the board: ")


def test_a_hand_of_another_size_is_refused():
    with pytest.raises(ValueError, match="5, 6 or 7"):
        strength(jnp.zeros((2, 8), jnp.int32))
    with pytest.raises(ValueError, match="4, 5 or 6"):
        omaha_strength(jnp.zeros((2, 2), jnp.int32), jnp.zeros((2, 5), jnp.int32))
