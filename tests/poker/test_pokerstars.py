import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.poker import cards
from lqlm.poker.codec import from_json, to_json
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.pokerstars_reader import LineError
from lqlm.poker.record import (
    ActKind,
    Game,
    HandError,
    Hole,
    Limit,
    Mucked,
    PostKind,
    Returned,
    collected,
    known_cards,
)
from lqlm.poker.replay import outcome, replay, validate
from tests.poker import random_hands, texts


@pytest.mark.parametrize("name", texts.EVERY)
def test_a_hand_of_every_kind_goes_round(name):
    hand = parse(texts.EVERY[name])
    assert parse(render(hand)) == hand
    assert from_json(to_json(hand)) == hand


@pytest.mark.parametrize("name", ["tournament", "twice", "hilo", "cap"])
def test_the_text_itself_comes_back(name):
    text = texts.EVERY[name].replace("PokerStars Game", "PokerStars Hand")
    wrote = render(parse(text)).splitlines()
    chatter = ("Seat 4: Dee is", "Cy: folds [")
    missing = [line for line in text.splitlines() if line not in wrote and not line.startswith(chatter)]
    assert not missing


def test_cash():
    hand = parse(texts.CASH)
    assert (hand.game, hand.limit, hand.stakes.big, hand.big_blind) == (Game.HOLDEM, Limit.NO_LIMIT, 100, 100)
    assert (hand.money.currency, hand.money.symbol, hand.money.decimals) == ("USD", "$", 2)
    assert [seat.player for seat in hand.seats] == ["Ada", "Bo :D", "[Cy] (x)", "Dee"]
    assert hand.table.name == "Vega's End" and hand.table.button == 4
    assert hand.time.zone == "PT" and hand.time.eastern.hour == 12
    assert hand.seats[3].status == "is sitting out"
    assert Mucked(4, cards.cards("7d7h")) in hand.results
    assert known_cards(hand) == {1: cards.cards("AhKd"), 4: cards.cards("7d7h")}
    played = replay(hand)
    assert played.stacks == {1: 10000 - 8000 + 15800, 2: 5450, 4: 0, 5: 2000}
    assert [(d.seat, d.act.kind) for d in played.decisions][:2] == [(4, ActKind.RAISE), (1, ActKind.RAISE)]
    assert played.street_pots == (1900, 16100, 16100, 16100)


def test_tournament():
    hand = parse(texts.TOURNAMENT)
    assert hand.tournament.number == "99" and hand.tournament.buy_in == "$3.19+$0.31 USD"
    assert hand.tournament.match == "Match Round II" and hand.tournament.level == "XI"
    assert hand.seats[0].bounty == "$2.50" and hand.seats[3].status.startswith("out of hand")
    assert hand.finishes[0].player == "Ada"
    assert [(pot.amount, pot.seats) for pot in replay(hand).pots] == [(90, (1, 2, 3)), (2940, (1, 2))]
    assert outcome(hand).stacks == {1: 0, 2: 1500 - 0 + 2940, 3: 90, 4: 9000}


def test_two_boards():
    hand = parse(texts.TWICE)
    assert [cards.text(board) for board in hand.boards] == ["2c 2d 9s Th Jh", "2c 2d 9s 3h 4h"]
    assert collected(hand) == {1: 3900} and hand.rake == 100 and hand.table.zoom


def test_a_player_who_buys_in_posts_a_dead_small_blind():
    hand = parse(texts.HILO)
    assert hand.mixed == "8-Game" and hand.big_blind == 200
    assert hand.posts[-1].kind is PostKind.BOTH
    assert replay(hand).contributed == {1: 1000, 2: 1100, 3: 100, 4: 200}


def test_cap_straddle_and_a_fold_face_up():
    hand = parse(texts.CAP)
    assert hand.stakes.cap == 2000 and hand.returned == Returned(2, 1600)
    assert hand.holes == (Hole(3, cards.cards("AhAc")),)
    assert replay(hand).decisions[0].legal.most == 2000


def test_an_old_log_does_not_state_the_uncalled_bet():
    assert parse(texts.OLD).returned == Returned(1, 20)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cash", "Ada: calls $61\n", "Ada: calls $60\n", "but a call is 6100"),
        ("cash", "raises $6 to $9", "raises $5 to $9", "a raise by 5 to 9"),
        ("cash", "Bo :D: folds\n", "", "it is seat 2's turn"),
        ("cash", "Ada collected $158", "Ada collected $157", "chips before"),
        ("cash", "Total pot $161", "Total pot $162", "total pot"),
        ("cash", "[As 7c 2d 9h] [9c]", "[As 7c 2d 9h] [Ah]", "a card is there twice"),
        ("cash", "[As 7c 2d 9h] [9c]", "[As 7c 3d 9h] [9c]", "changes cards"),
        ("cash", "[Ah Kd]\n", "[Ah Kx]\n", "no card"),
        ("cash", "Ada: bets $10\n", "Ada: bets $10\nAda: wins everything\n", "not understood"),
        ("cash", "Bo :D: folds", "Bob: folds", "not understood"),
        ("cash", "and is all-in\n", "\n", "not said to be all-in"),
        ("cash", "Hold'em No Limit", "Razz Limit", "game not read: Razz"),
        ("cash", "2020/01/02", "2020/13/02", "is no time"),
        ("cap", "($16) returned", "($15) returned", "uncalled bet"),
        ("old", "*** SUMMARY ***", "Hand cancelled\n*** SUMMARY ***", "cancelled"),
        ("old", "*** HOLE", "Bo cashed out the hand for 12\n*** HOLE", "cashed out"),
        ("hilo", "Ada: checks\nBo: checks\n", "Ada: bets $5\nBo: calls $5\n", "allowed is 400 to 400"),
    ],
)
def test_a_malformed_hand_is_refused(name, old, new, message):
    assert old in texts.EVERY[name]
    with pytest.raises(LineError, match=message):
        parse(texts.EVERY[name].replace(old, new, 1))


def test_the_error_names_the_line():
    lines = texts.CASH.splitlines()
    at = lines.index("Ada: bets $10")
    lines[at] = "Ada: frets $10"
    with pytest.raises(LineError) as caught:
        parse("\n".join(lines))
    assert caught.value.line == at


def test_a_cut_log_is_refused():
    for end in range(len(texts.OLD.splitlines()) - 3):
        with pytest.raises(HandError):
            parse("\n".join(texts.OLD.splitlines()[: end + 1]))


def test_an_even_split_whose_halves_were_rounded_is_exact_again():
    text = texts.HILO.replace("$11.50 from", "$11.51 from").replace("Total pot $24 |", "Total pot $24.01 |")
    text = text.replace("posts small blind $1\n", "posts small blind $1.01\n")
    hand = parse(text)
    assert collected(hand) == {1: 11505, 2: 11505} and hand.money.decimals == 3
    assert parse(render(hand)) == hand


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_any_legal_hand_goes_round(seed):
    hand = random_hands.random_hand(seed)
    assert parse(render(hand)) == hand
    assert from_json(to_json(hand)) == hand
    played = validate(hand)
    assert sum(played.stacks.values()) + hand.rake == sum(seat.stack for seat in hand.seats)
    boards = sum(pot.amount for pot in played.pots)
    assert boards == sum(played.contributed.values()) == sum(collected(hand).values()) + hand.rake


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.data())
def test_a_hand_with_one_amount_changed_is_refused(seed, data):
    hand = random_hands.random_hand(seed)
    takes = [i for i, result in enumerate(hand.results) if hasattr(result, "amount")]
    at = data.draw(st.sampled_from(takes))
    wrong = dataclasses.replace(hand.results[at], amount=hand.results[at].amount + 3)
    results = (*hand.results[:at], wrong, *hand.results[at + 1 :])
    with pytest.raises(HandError, match="chips before"):
        validate(dataclasses.replace(hand, results=results))
