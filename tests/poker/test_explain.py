"""Explanations hold nothing but facts, and a text that says anything else is found out."""

import dataclasses
import itertools
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.poker.arena.assumed import (
    Assumption,
    assumed_ranges,
    call_value,
    estimate,
    raisers,
    sampled_shares,
)
from lqlm.poker.arena.features import PUBLIC, row_of
from lqlm.poker.cards import CATEGORIES, cards
from lqlm.poker.claims import check_facts
from lqlm.poker.equity import exact_equity, range_equity
from lqlm.poker.explain import explain, show_amount
from lqlm.poker.facts import POSITIONS, STREETS, Facts, facts_of, position_of
from lqlm.poker.pokerstars import parse
from lqlm.poker.ranges import parse_range
from lqlm.poker.record import Game, known_cards
from lqlm.poker.replay import replay, to_win
from lqlm.poker.told import features_of
from tests.poker.random_hands import random_hand

KNOWN = Facts(
    street=1,
    cards=cards("Ah Kh"),
    board=cards("Qh 7h 2c"),
    made="high card",
    suited=True,
    draws=("flush draw", "overcards"),
    outs=15,
    position="cutoff",
    opponents=2,
    pot=Decimal("9.5"),
    winnable=Decimal("9.5"),
    call=Decimal("3.5"),
    stack=Decimal(91),
    effective=Decimal(40),
    raiser=4,
    raiser_position="big blind",
    raises=1,
    needed=3.5 / 13,
    equity=0.523,
    margin=0.016,
    against="1 hand of the range 30% and 1 random hand",
    policy=(("fold", 0.05), ("call", 0.35), ("raise to 10 bb", 0.6)),
)
HAND = """PokerStars Hand #1:  Hold'em No Limit ($1/$2) - 2020/01/01 12:00:00 ET
Table 'T' 6-max Seat #3 is the button
Seat 1: Ada ($200 in chips)
Seat 2: Bob ($20 in chips)
Seat 3: Cy ($200 in chips)
Ada: posts small blind $1
Bob: posts big blind $2
*** HOLE CARDS ***
Dealt to Cy [Ah Kh]
Cy: raises $4 to $6
Ada: calls $5
Bob: calls $4
*** FLOP *** [Qh 7h 2c]
Ada: bets $40
Bob: calls $14 and is all-in
Cy: calls $40
*** TURN *** [Qh 7h 2c] [3d]
Ada: checks
Cy: checks
*** RIVER *** [Qh 7h 2c 3d] [3s]
Ada: checks
Cy: checks
*** SHOW DOWN ***
Ada: shows [Qs Qd]
Ada collected $52 from side pot
Ada collected $60 from main pot
*** SUMMARY ***
Total pot $112 Main pot $60. Side pot $52. | Rake $0
Board [Qh 7h 2c 3d 3s]
Seat 1: Ada (small blind) showed [Qs Qd] and won ($112)
Seat 2: Bob (big blind) mucked [Jh Th]
Seat 3: Cy (button) mucked [Ah Kh]
"""


def decisions():
    for seed in range(25):
        hand = random_hand(seed)
        known = known_cards(hand)
        for decision in replay(hand).decisions:
            if decision.seat in known:
                yield hand, decision, known[decision.seat]


def test_the_facts_of_a_decision():
    hand = parse(HAND)
    decision = replay(hand).decisions[5]
    facts = facts_of(hand, decision, cards("Ah Kh"), to_win=to_win(hand, decision))
    assert (facts.made, facts.draws, facts.outs) == ("high card", ("flush draw", "overcards"), 15)
    assert (facts.position, facts.opponents, facts.raiser, facts.raiser_position) == ("button", 2, 1, "small blind")
    assert (facts.pot, facts.call, facts.stack, facts.raises) == (36, 20, 97, 1)  # 18 + 40 + 14 dollars, in blinds
    assert facts.winnable == 36 and facts.needed == pytest.approx(20 / 56) and facts.effective == 97
    assert raisers(hand, decision) == {1, 3}
    assert assumed_ranges(hand, decision, Assumption("22+", "50%")) == ["22+", "50%"]
    bob = replay(hand).decisions[4]
    assert to_win(hand, bob) == (6 + 14 + 6 + 6) * 100 and facts_of(hand, bob, cards("JhTh")).pot == 29
    text = " ".join(explain(facts_of(hand, bob, cards("Jh Th"), to_win=to_win(hand, bob))))
    assert "of which you can win 16 bb" in text and "a call needs 30%" in text


def test_a_short_stack_is_told_the_price_of_the_pot_that_it_can_win():
    hand = parse(HAND)
    bob = replay(hand).decisions[4]
    assert features_of(hand, bob, cards("JhTh"), ("pot-odds",), Decimal(0)).pot_odds == 30
    row = row_of(hand, bob, cards("JhTh"), lambda held, board: 0.5)
    odds = row[PUBLIC.index("pot odds")]
    assert round(100 * odds) == 30 and row[-1] == pytest.approx(0.5 ** (len(bob.live) - 1) - odds)


def test_no_equity_is_told_where_a_low_hand_wins_half():
    hand = parse(HAND)
    decision = replay(hand).decisions[4]
    both = dataclasses.replace(hand, game=Game.OMAHA_HILO), dataclasses.replace(hand, game=Game.OMAHA)
    told = [features_of(one, decision, cards("JhTh2c3d"), ("equity",), Decimal(0)).equity for one in both]
    assert told[0] is None and told[1] is not None


def test_an_explanation_holds_nothing_but_its_facts():
    count, streets = 0, set()
    for hand, decision, held in decisions():
        rng = np.random.default_rng(count)
        more = {}
        if count % 8 == 0 and not hand.game.value.endswith("Lo"):
            more = dataclasses.asdict(estimate(hand, decision, held, rng, samples=50))
        facts = facts_of(hand, decision, held, to_win=to_win(hand, decision), policy=KNOWN.policy, **more)
        text = " ".join(explain(facts))
        assert check_facts(text, facts) == (), text
        assert re.search("[♣♦♥♠]", text)
        count, streets = count + 1, streets | {facts.street}
    assert count > 100 and streets == {0, 1, 2, 3}


def test_the_sentences():
    assert explain(KNOWN) == (
        "You hold A♥ K♥ on the flop, Q♥ 7♥ 2♣: high card, with flush draw and overcards; 15 outs.",
        "You are in the cutoff against 2 opponents; seat 4, in the big blind, bet (1 bet on this street).",
        "The pot is 9.5 bb, and a call costs 3.5 bb; the effective stack is 40 bb, a stack-to-pot ratio of 4.2.",
        "Your equity is 52%, give or take 2%, against 1 hand of the range 30% and 1 random hand.",
        "To break even a call needs 27%: your equity is more than that.",
        "The model says fold 5%, call 35%, raise to 10 bb 60%.",
    )


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


@given(st.data())
def test_a_changed_number_is_found(data):
    text = data.draw(st.sampled_from(explain(KNOWN)))
    places = [m for m in NUMBER.finditer(text) if KNOWN.against not in text or m.start() < text.index(KNOWN.against)]
    if places:
        at = data.draw(st.sampled_from(places))
        other = data.draw(st.integers(0, 150).map(str).filter(lambda n: abs(float(n) - float(at[0])) > 0.5))
        changed = text[: at.start()] + other + text[at.end() :]
        assert check_facts(changed, KNOWN), changed


OTHERS = {
    "outs": 3,
    "opponents": 1,
    "pot": Decimal(12),
    "call": Decimal("4.2"),
    "effective": Decimal(41),
    "raises": 2,
    "raiser": 2,
    "needed": 0.6,
    "equity": 0.3,
    "margin": 0.04,
    "position": "button",
    "raiser_position": "small blind",
    "made": "pair",
    "draws": ("gutshot",),
    "street": 2,
    "board": cards("Qh 7h 2d"),
    "cards": cards("Ah Kd"),
    "policy": (("fold", 0.1), ("call", 0.3), ("raise to 10 bb", 0.6)),
}


@pytest.mark.parametrize("field", OTHERS)
def test_an_explanation_of_other_facts_is_found(field):
    other = dataclasses.replace(KNOWN, **{field: OTHERS[field]})
    assert check_facts(" ".join(explain(KNOWN)), other) and check_facts(" ".join(explain(other)), KNOWN)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("You have a flush.", ["flush"]),
        ("You have a flush draw and no pair.", []),
        ("You have no flush draw.", ["no flush draw"]),
        ("You have a gutshot and an open-ended straight draw.", ["open-ended straight draw", "gutshot"]),
        ("Fifteen outs would be many, 15 outs it is.", []),
        ("Nine outs.", ["9 outs"]),
        ("You are on the button.", ["You are on the button"]),
        ("You are in the cutoff, seat 4 in the big blind bet.", []),
        ("Seat 3 raised.", ["Seat 3"]),
        ("Seat 4, on the button, raised.", ["Seat 4, on the button"]),
        ("Nobody has bet.", ["Nobody has bet"]),
        ("On the turn you hold A♥ K♥.", ["the turn"]),
        ("The A♠ is yours.", ["A♠"]),
        ("You hold Ah Kd.", ["Kd"]),
        ("As you see, there is nothing more.", []),
        ("You need 52% and have an equity of 27%.", ["52%", "27%"]),
        ("Your equity is 52.3%, a call needs 26.9%.", []),
        ("Your equity of 52% is below what a call needs.", ["below"]),
        ("Your equity is not enough.", ["not enough"]),
        ("Your equity is -52%.", ["-52%"]),
        ("A 3-bet would do.", ["3"]),
        ("Your equity of 52% is above the pot odds of 27 percent.", []),
        ("The model would call 60%.", ["call 60%"]),
        ("The model would bet 5 bb 60%.", ["bet 5 bb 60%"]),
        ("The pot holds 9.5 big blinds and the call is 4.", ["4"]),
        ("A call of 3.5 bb wins 12 bb.", ["12 bb"]),
        ("SPR 4.2 with 91 bb, 40 bb effective.", []),
        ("You win 3 times of 4.", ["3", "4"]),
        ("Against 3 opponents.", ["3 opponents"]),
        ("You are suited.", []),
        ("You are offsuit.", ["offsuit"]),
    ],
)
def test_claims(said, wrong):
    found = check_facts(said, KNOWN)
    assert sorted(line.split('"')[1] for line in found) == sorted(wrong), found
    assert all("\n" not in line for line in found)


@given(st.integers(2, 10))
def test_positions(players):
    names = [position_of(at, players) for at in range(players)]
    assert names[-1] == "button" and set(names) <= set(POSITIONS)
    assert names.count("button") == names.count("big blind") == 1 and len(set(names)) == min(players, 7)


def test_words_of_different_facts_do_not_pass_for_each_other():
    for one, other in itertools.permutations(CATEGORIES, 2):
        facts = dataclasses.replace(KNOWN, made=one, draws=())
        assert check_facts(f"You hold {other}.", facts) and not check_facts(f"You hold {one}.", facts)
    for one, other in itertools.permutations(range(4), 2):
        facts = dataclasses.replace(KNOWN, street=one)
        assert check_facts(f"It is {STREETS[other]}.", facts) and not check_facts(f"It is {STREETS[one]}.", facts)


@pytest.mark.parametrize(
    ("hole", "board", "text"),
    [("AhKh", "Qh7h2c", "30%"), ("7c7d", "Ah Ks 2c 9d", "AA,KQs,T9s"), ("AhKh", "Qh7h2c3d4s", "random")],
)
def test_sampled_equity_against_a_range_is_the_exact_one(hole, board, text):
    shares = sampled_shares(cards(hole), cards(board), [parse_range(text)], np.random.default_rng(0), 8000)
    exact = range_equity(cards(hole), parse_range(text), cards(board)).equity[0]
    assert abs(shares.mean() - exact) < 4 * max(shares.std(), 0.01) / 8000**0.5


def test_ranges_that_collide_are_drawn_from_their_joint_law():
    # AhAx against two ranges of aces: only deals in which nobody holds another's card count.
    hole, board = cards("2c2d"), cards("As Kd 7h 9c 3s")
    first, second = parse_range("AA:1,KK:0.5"), parse_range("AA,QQ:0.5")
    shares = sampled_shares(hole, board, [first, second], np.random.default_rng(1), 4000)
    assert shares.max() == 0.0
    mine = sampled_shares(cards("KcKh"), board, [first, second], np.random.default_rng(1), 20_000)
    # AA on both needs four aces but one is on the board: 3 + 3 of KK/AA; by hand: (AA, QQ) 3 * 6 / 2, (KK, AA) 1/2 * 3,
    # (KK, QQ) 1/2 * 6 / 2 with the last king pair impossible (two are held, one is on the board), so KK has none.
    assert mine.max() == 0.0, "the first holds AA in every deal that is left"
    with pytest.raises(UserError, match="widen"):
        sampled_shares(hole, board, [parse_range("AcAd"), parse_range("AcAh")], np.random.default_rng(0), 100)


def test_equity_of_many_and_of_omaha():
    rng = np.random.default_rng(2)
    # Ten hands of equal right: the first wins a tenth on average over all cards it may hold.
    mean = np.mean(
        [sampled_shares(rng.permutation(52)[:2].tolist(), (), [None] * 9, rng, 40).mean() for _ in range(100)]
    )
    assert abs(mean - 0.1) < 0.03
    held = cards("AhKhQdJd"), cards("8c8d7s6s")
    exact = exact_equity(held, cards("Th 9h 2c")).equity
    assert abs(exact.sum() - 1) < 1e-9
    other = sampled_shares(held[0], cards("Th 9h 2c"), [None], rng, 4000)
    assert 0.5 < other.mean() < 0.95
    with pytest.raises(UserError, match="one opponent"):
        sampled_shares(held[0], (), [], rng, 10)


def test_the_value_of_a_call():
    assert call_value(3.5 / 13, 3.5, 9.5) == pytest.approx(0)
    assert call_value(1.0, 3.5, 9.5) == 9.5 and call_value(0.0, 3.5, 9.5) == -3.5
    with pytest.raises(UserError, match="range"):
        Assumption("7Z+")
    assert Assumption().describe(["random"]) == "1 random hand"


def test_a_later_card_or_act_changes_no_fact():
    hand = parse(HAND)
    decision = replay(hand).decisions[5]
    cut = dataclasses.replace(
        hand, streets=(*hand.streets[:1], hand.streets[1][:2]), boards=(hand.boards[0][:3],), results=(), holes=()
    )
    assert facts_of(cut, decision, cards("AhKh")) == facts_of(hand, decision, cards("AhKh"))
    one, other = (estimate(h, decision, cards("AhKh"), np.random.default_rng(0), samples=50) for h in (cut, hand))
    assert one == other and hand.game is Game.HOLDEM


@given(st.integers(0, 100_000))
def test_amounts_are_rounded_half_up(hundredths):
    value = Decimal(hundredths) / 100
    assert abs(Decimal(show_amount(value)) - value) <= Decimal("0.05")
