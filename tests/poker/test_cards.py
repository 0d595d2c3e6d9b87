import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.poker import cards

CARD = st.integers(0, 51)


def test_the_deck():
    assert len(set(cards.DECK)) == 52
    assert [cards.card(text) for text in cards.DECK] == list(range(52))
    assert cards.DECK[0] == "2c" and cards.DECK[51] == "As" and cards.DECK[5] == "3d"


@given(st.lists(CARD, max_size=7, unique=True), st.sampled_from(["", " "]))
def test_text_and_back(numbers, between):
    assert list(cards.cards(cards.text(numbers, between))) == numbers


@pytest.mark.parametrize("text", ["", "A", "1h", "Ax", "ah", "AH"])
def test_what_is_no_card(text):
    with pytest.raises(ValueError, match="no card"):
        cards.card(text)


def test_there_are_169_classes_of_two_cards():
    counts = {}
    for pair in itertools.combinations(range(52), 2):
        name = cards.hand_class(pair)
        counts[name] = counts.get(name, 0) + 1
    assert len(counts) == 169
    assert counts["AA"] == 6 and counts["AKs"] == 4 and counts["AKo"] == 12


def test_the_order_of_hole_cards_does_not_matter():
    for pair in itertools.combinations(range(52), 2):
        assert cards.hand_class(pair) == cards.hand_class(pair[::-1])
        assert cards.characteristics(pair) == cards.characteristics(pair[::-1])


@pytest.mark.parametrize(
    ("five", "name"),
    [
        ("Ah Kh Qh Jh Th", "straight flush"),
        ("5h 4h 3h 2h Ah", "straight flush"),
        ("5h 4h 3d 2h Ah", "straight"),
        ("Kh Ah 2d 3h 4h", "high card"),
        ("9h 9d 9c 9s 4h", "four of a kind"),
        ("9h 9d 9c 4s 4h", "full house"),
        ("2h 5h 7h 9h Kh", "flush"),
        ("9h 9d 9c 5s 4h", "three of a kind"),
        ("9h 9d 5c 5s 4h", "two pair"),
        ("9h 9d 5c 3s 4h", "pair"),
        ("9h 9d 5c 5s", "two pair"),
        ("9h 8h 7h 6h", "high card"),
    ],
)
def test_categories(five, name):
    assert cards.CATEGORIES[cards.category(cards.cards(five))] == name


def test_counts_of_the_categories_of_five_cards_of_a_short_deck():
    """Against the known counts, scaled: all five-card hands of 2..7 in four suits, counted by hand-made formulas."""
    found = [0] * 9
    for five in itertools.combinations(range(24), 5):
        found[cards.category(five)] += 1
    straights = 2  # 2-6 and 3-7; there is no ace for the wheel
    assert found[8] == straights * 4
    assert found[7] == 6 * 20
    assert found[6] == 6 * 4 * 5 * 6
    assert found[5] == 4 * 6 - straights * 4
    assert found[4] == straights * (4**5 - 4)
    assert found[3] == 6 * 4 * 10 * 16
    assert found[2] == 15 * 36 * 16
    assert found[1] == 6 * 6 * 10 * 64
    assert sum(found) == 42504


def test_omaha_uses_two_hole_cards():
    board = cards.cards("2h 5h 7h 9h Kc")
    assert cards.CATEGORIES[cards.best_category(cards.cards("Ah As Ac 3d"), board, 2)] == "pair"
    assert cards.CATEGORIES[cards.best_category(cards.cards("Ah As Jh 3d"), board, 2)] == "flush"
    assert cards.CATEGORIES[cards.best_category(cards.cards("Ah As"), board)] == "flush"


def renamed(numbers, names):
    return [4 * cards.rank(number) + names[cards.suit(number)] for number in numbers]


@given(
    st.lists(CARD, min_size=5, max_size=9, unique=True),
    st.sampled_from([2, 4]),
    st.permutations(range(4)),
    st.randoms(use_true_random=False),
)
def test_canonical_cards_are_the_same_for_all_names_of_suits(numbers, held, names, rng):
    hole, board = numbers[:held], numbers[held:][:5]
    board = board if len(board) >= 3 else []
    mine, flop = (rng.sample(part, len(part)) for part in (hole, board[:3]))
    found = cards.canonical(tuple(hole), tuple(board))
    assert cards.canonical(tuple(renamed(mine, names)), tuple(renamed([*flop, *board[3:]], names))) == found
    assert cards.canonical(*found) == found
    every = [
        (sorted(renamed(hole, way)), sorted(renamed(board[:3], way)), renamed(board[3:], way))
        for way in itertools.permutations(range(4))
    ]
    assert (sorted(found[0]), sorted(found[1][:3]), list(found[1][3:])) in every


def test_there_are_169_pairs_and_1755_flops_but_for_the_names_of_suits():
    pairs = {cards.canonical(pair)[0] for pair in itertools.combinations(range(52), 2)}
    assert len(pairs) == len({cards.hand_class(pair) for pair in pairs}) == 169
    assert len({cards.canonical((), flop)[1] for flop in itertools.combinations(range(52), 3)}) == 1755
