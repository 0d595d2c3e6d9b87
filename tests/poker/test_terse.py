"""The terse template: its words, what it leaves out, and what is no such prompt (read back: test_prompts)."""

import dataclasses
from decimal import Decimal

import pytest

from lqlm.poker.phh import parse as parse_phh
from lqlm.poker.prompts import read_terse, write_compact, write_terse
from lqlm.poker.record import HandError, known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import ViewConfig, state_of
from tests.poker.test_prompts import decision_of

SIX = """variant = 'NT'
antes = [0, 0, 0, 0, 0, 0]
blinds_or_straddles = [50, 100, 0, 0, 0, 0]
min_bet = 100
starting_stacks = [10000, 10000, 10000, 10000, 10000, 10000]
actions = ['d dh p1 Qc4s', 'd dh p2 7cAd', 'd dh p3 JsTs', 'd dh p4 4c3d', 'd dh p5 7d6c', 'd dh p6 9hKh',
 'p3 cbr 225', 'p4 f', 'p5 f', 'p6 f', 'p1 f', 'p2 cc', 'd db 7s2dTc', 'p2 cc', 'p3 cbr 300', 'p2 f']
hand = 7
players = ['A', 'B', 'C', 'D', 'E', 'F']
finishing_stacks = [9950, 9775, 10275, 10000, 10000, 10000]
"""


def states(**view):
    hand = parse_phh(SIX)
    held = known_cards(hand)
    config = ViewConfig(round_up=False, **view)
    return [state_of(hand, decision, held[decision.seat], config) for decision in replay(hand).decisions]


def test_the_terse_template():
    every = states(features=("pot-odds", "class", "spot"))
    texts = list(map(write_terse, every))
    assert texts[0] == "JsTs sp sp m s s s pot1.5 odds40 made:JTs live5 behind3 raises0 call1 fcr chA"
    assert texts[5] == ("7cAd spf mp sr2.25 sf sf sf pot3.75 odds25 made:A7o live1 behind1 raises1 call1.25 fcr dhA")
    assert texts[8] == (
        "7cAd 7s2dTc spf mpc1.25/k sr2.25/b3 sf sf sf pot8 odds27 made:middle_pair live1 behind1 raises1 call3 fcr dgA"
    )
    assert all(read_terse(text) == state for text, state in zip(texts, every))
    assert all(len(write_terse(state)) < 0.6 * len(write_compact(state)) for state in states())


def test_canonical_cards():
    every = states(canonical=True, features=("class", "equity"))
    assert write_terse(every[8]).startswith("As7h Th7d2s spf mpc1.25/k ")
    assert all(read_terse(write_terse(state)) == state for state in every)
    dealt = states(features=("class", "equity"))
    assert [state.features for state in every] == [state.features for state in dealt]  # of the cards that were dealt
    assert [state.rank for state in every] == [state.rank for state in dealt]


def test_what_is_not_usual_is_said():
    _, _, state = decision_of("cash", 4)
    assert write_terse(state) == ("NLH USD 0.5/1 1-2-4 sb1\nAhKd As7c2d mp1r9 spf=55 sr3c6=71 pot19 kb bgA")
    odd = dataclasses.replace(state, big=Decimal("0.03"), pot=Decimal("0.1"), all_in=Decimal(7))
    text = write_terse(odd)
    assert "pot$0.1 " in text and text.endswith("A$7") and read_terse(text) == odd


@pytest.mark.parametrize(
    ("old", "new"),
    [("pot19", "pit19"), ("mp1r9", "sp1r9"), ("r9", "x9"), ("NLH", "NLX"), (" sb1", ""), ("kb", "kz"), ("bgA", "gzA")],
)
def test_what_is_no_terse_prompt(old, new):
    text = write_terse(decision_of("cash", 4)[2])
    assert old in text
    with pytest.raises(HandError, match=r"terse template|no game"):
        read_terse(text.replace(old, new))


@pytest.mark.parametrize("text", ["", "\n", "AhKd", "AhKd pot", "AhKd m potx k"])
def test_rubbish(text):
    with pytest.raises(HandError, match="terse template"):
        read_terse(text)
