import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.poker import phh, phh_writer
from lqlm.poker.pokerstars import parse
from lqlm.poker.record import Collected, Game, HandError, Limit, PostKind, Shown, collected
from lqlm.poker.replay import outcome
from tests.poker import random_hands, texts

PLAIN = """\
variant = 'NT'
ante_trimming_status = true
antes = [0, 0, 0]
blinds_or_straddles = [1, 2, 0]
min_bet = 2
starting_stacks = [110, 20.5, 200]
actions = ['d dh p1 AcAd', 'd dh p2 ????', 'd dh p3 7h6h', 'p3 cbr 6', 'p1 cbr 20 # why not', 'p2 f', 'p3 cc', \
'd db 2c3c4c', 'p1 cc', 'p3 cbr 12.5', 'p1 cc', 'd db 5c', 'p1 cc', 'p3 cc', 'd db 9h', 'p1 cc', 'p3 cc', \
'p1 sm AcAd', 'p3 sm']
hand = 7
players = ['Ada', 'Bo', 'Cy']
finishing_stacks = [144.5, 18.5, 167.5]
"""


def test_a_plain_file():
    hand = phh.parse(PLAIN, table="Rho")
    assert (hand.game, hand.limit, hand.money.decimals, hand.big_blind) == (Game.HOLDEM, Limit.NO_LIMIT, 1, 20)
    assert [(seat.number, seat.player, seat.stack) for seat in hand.seats] == [
        (1, "Ada", 1100),
        (2, "Bo", 205),
        (3, "Cy", 2000),
    ]
    assert hand.table.name == "Rho" and hand.table.button == 3 and hand.hand_id == "7"
    assert [hole.seat for hole in hand.holes] == [1, 3]
    assert hand.results[0] == Shown(1, hand.holes[0].cards) and hand.results[-1] == Collected(1, 670)
    assert outcome(hand).stacks == {1: 1445, 2: 185, 3: 1675}
    assert phh.parse(phh_writer.render(hand)) == hand
    assert "_lqlm" not in phh_writer.render(hand)  # nothing that the format cannot say


def test_heads_up_the_second_player_is_the_small_blind():
    text = (
        PLAIN.replace("[0, 0, 0]", "[0, 0]").replace("[1, 2, 0]", "[1, 2]").replace("[110, 20.5, 200]", "[110, 20.5]")
    )
    text = text[: text.index("actions")] + "actions = ['d dh p1 AcAd', 'd dh p2 7h6h', 'p2 f']\n"
    hand = phh.parse(text)
    found = [(post.seat, post.kind, post.amount) for post in hand.posts]
    assert found == [(2, PostKind.SMALL, 10), (1, PostKind.BIG, 20)]
    assert collected(hand) == {1: 20} and hand.returned.amount == 10


def test_toml_of_any_layout_is_read():
    spread = PLAIN.replace("antes = [0, 0, 0]", 'antes = [\n  0,\n  0, # small blind\n  0,\n]\nevent = "a \\"b\\""')
    assert phh.parse(spread) == phh.parse(PLAIN)


COLLECTED = """\
variant = 'NT'
ante_trimming_status = false
antes = [0.25, 0.25, 0.25]
blinds_or_straddles = [0.50, 1, 0]
min_bet = 1
starting_stacks = [40, 90.75, 200]
actions = ['d dh p1 ????', 'd dh p2 ????', 'd dh p3 ????', ACTIONS]
venue = 'Somewhere'
time = 00:00:26
day = 1
month = 7
year = 2009
hand = 30
seats = [3, 4, 1]
players = ['X+u4', 'wyXD', '3wT3']
currency_symbol = '$'
"""
TO_THE_RIVER = "'p3 cbr 4', 'p1 cc', 'p2 cc', 'd db 2c3c4c', 'p1 cbr 35.75', 'p2 cc', 'p3 cc', 'd db 5c', 'p2 cc', \
'p3 cbr 20', 'p2 cc', 'd db 9h', 'p2 cc', 'p3 cc', "
CHECKED = "'p3 cbr 4', 'p1 f', 'p2 cc', 'd db 2c3c4c', 'p2 cc', 'p3 cc', 'd db 5c', 'p2 cc', 'p3 cc', 'd db 9h', \
'p2 cc', 'p3 cc', "


@pytest.mark.parametrize(
    ("actions", "winnings", "won", "rake"),
    [
        ("'p3 cbr 4', 'p1 f', 'p2 f'", "[0, 0, 0]", {1: 325}, 0),  # a pot without a flop, written as zeros
        ("'p3 cbr 4', 'p1 f', 'p2 cc', 'd db 2c3c4c', 'p2 cc', 'p3 cbr 9', 'p2 f'", "[0, 0, 8.80]", {1: 880}, 45),
        # The seat that is all-in has the best hand, and the side pot goes to the second: there are no winnings at all.
        (TO_THE_RIVER + "'p1 sm AcAd', 'p2 sm 7h6h', 'p3 sm KsKd'", None, {3: 12000, 4: 4000}, 0),
        (TO_THE_RIVER + "'p1 sm ????', 'p2 sm 8h8d', 'p3 sm 8s8c'", None, {1: 16000}, 0),  # a flush of five clubs
        (TO_THE_RIVER + "'p1 sm ????', 'p2 sm AhAd', 'p3 sm AsKd'", None, {4: 8000, 1: 8000}, 0),  # two straights
        # The pot of 9.25 is split, and the odd cent is the first player's from the left of the button.
        (CHECKED + "'p2 sm AhAd', 'p3 sm AsKd'", None, {4: 463, 1: 462}, 0),
    ],
)
def test_hands_of_public_collections(actions, winnings, won, rake):
    """Forms of the HandHQ part of the PHH data set: winnings less the rake, zeros, or none at a showdown."""
    text = COLLECTED.replace("ACTIONS", actions) + (f"winnings = {winnings}\n" if winnings else "")
    hand = phh.parse(text)
    assert collected(hand) == won and hand.rake == rake
    assert phh.parse(phh_writer.render(hand)) == hand


def test_a_showdown_is_settled_as_the_file_says():
    assert phh.parse(PLAIN.replace(ENDS, "")) == phh.parse(PLAIN)
    with pytest.raises(HandError, match="neither finishing_stacks nor winnings nor the cards of a showdown"):
        phh.parse(PLAIN.replace(ENDS, "").replace("p1 sm AcAd", "p1 sm"))


ENDS = "finishing_stacks = [144.5, 18.5, 167.5]\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'NT'", "'FR'", "game not read: razz"),
        ("'NT'", "'XX'", "variant 'XX'"),
        ("min_bet = 2\n", "", "'min_bet' is missing"),
        ("'p2 f'", "'p2 x'", "action not understood"),
        ("'p2 f'", "'p9 f'", "no player 'p9'"),
        ("'p2 f'", "'p3 f'", "it is seat 2's turn"),
        ("18.5, 167.5]", "18.5, 168.5]", "chips before"),
        ("hand = 7", "hand = ", "no TOML"),
        ("AcAd'", "AcAc'", "a card is there twice"),
        ("p1 sm AcAd", "p1 sm AcAs", "not dealt"),
        ("['Ada', 'Bo', 'Cy']", "['Ada', 'Bo']", "3 stacks, 2 players"),
        ("hand = 7", "hand = 7\n_lqlm_nothing = '1'", "no field of a hand"),
    ],
)
def test_what_is_refused(old, new, message):
    assert old in PLAIN
    with pytest.raises((HandError, ValueError), match=message):
        phh.parse(PLAIN.replace(old, new))


@pytest.mark.parametrize("name", ["cash", "tournament"])
def test_a_hand_of_a_site_goes_round_with_all_that_phh_cannot_say(name):
    hand = parse(texts.EVERY[name])
    assert phh.parse(phh_writer.render(hand)) == hand


@pytest.mark.parametrize(("name", "message"), [("twice", "second board"), ("cap", "no cap"), ("old", "no variant")])
def test_what_phh_cannot_hold_is_said(name, message):
    with pytest.raises(HandError, match=message):
        phh_writer.render(parse(texts.EVERY[name]))


GAMES = [(Game.HOLDEM, Limit.NO_LIMIT), (Game.HOLDEM, Limit.FIXED), (Game.OMAHA, Limit.POT_LIMIT)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([*GAMES, (Game.OMAHA_HILO, Limit.FIXED)]))
def test_any_legal_hand_goes_round(seed, game):
    hand = random_hands.random_hand(seed, game=game[0], limit=game[1], twice=False)
    hand = dataclasses.replace(hand, stakes=dataclasses.replace(hand.stakes, cap=0))
    try:
        text = phh_writer.render(hand)
    except HandError:  # without its cap the hand is another one
        return
    assert phh.parse(text) == hand


@pytest.mark.parametrize(
    "line",
    [
        "starting_stacks = 5",
        "antes = ['x', 0, 0]",
        "seats = 3",
        "actions = ['d dh p1']",
        "actions = ['d db']",
        "actions = [['d'], 3]",
        "blinds_or_straddles = 7",
        "_lqlm_rake = 3",
        "_lqlm_rake = '{}'",
        "_lqlm_table = '3'",
    ],
)
def test_a_field_of_another_form_is_a_hand_that_is_refused(line):
    name = line.split(" = ")[0]
    kept = [own for own in PLAIN.splitlines() if not own.startswith(f"{name} ")]
    with pytest.raises(HandError) as error:
        phh.parse("\n".join([*kept, line]))
    assert "\n" not in str(error.value)
