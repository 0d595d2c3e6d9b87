import dataclasses
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.poker.codec import to_json
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.profiles import Profile, Profiles
from lqlm.poker.record import HandError, known_cards, player_of
from lqlm.poker.select import (
    Ledger,
    Split,
    Tiers,
    WinRate,
    all_known_cards,
    anonymise,
    collected_mbb,
    has_showdown,
    net_mbb,
    pseudonym,
    ranked_tiers,
    showdown_cards,
    split_of,
    tier_of,
)
from tests.poker import texts
from tests.poker.random_hands import random_hand


@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=60))
def test_a_win_rate_has_the_mean_and_the_interval_of_its_results(results):
    ledger = Ledger()
    for result in results:
        ledger.put("A", result)
    rate = ledger.rate("A")
    half = 1.959964 * statistics.stdev(results) / math.sqrt(len(results))
    assert rate.hands == len(results)
    assert math.isclose(rate.mean, statistics.fmean(results), rel_tol=1e-6, abs_tol=1e-4)
    assert math.isclose(rate.high - rate.low, 2 * half, rel_tol=1e-5, abs_tol=1e-3)


def test_one_hand_says_nothing():
    ledger = Ledger()
    ledger.put("A", 5.0)
    assert ledger.rate("A").low == -math.inf
    assert ledger.rates(least_hands=2) == []


def test_net_results():
    assert net_mbb(parse(texts.CASH)) == {1: 78000.0, 2: -1000.0, 4: -80000.0}
    assert net_mbb(parse(texts.OLD)) == {1: 1000.0, 2: -1000.0}


def test_players_ranked_by_what_they_collect():
    """Player 1 of the cash game wins 160 big blinds less the rake, having put in 80; the others collect nothing."""
    hand = parse(texts.CASH)
    assert collected_mbb(hand) == {1: 158000.0, 2: 0.0, 4: 0.0}
    won, taken = Ledger(), Ledger("collected")
    won.add(hand), taken.add(hand)
    names = player_of(hand)
    assert [led.rate(names[4]).mean for led in (won, taken)] == [-80000.0, 0.0]
    assert [led.rate(names[1]).mean for led in (won, taken)] == [78000.0, 158000.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_net_results_add_up_to_the_rake(seed):
    hand = random_hand(seed)
    total = sum(net_mbb(hand).values()) * hand.big_blind / 1000
    assert math.isclose(total, -hand.rake, abs_tol=1e-6)


def test_tiers():
    assert [tier_of(mean, Tiers()) for mean in (-1, 0, 599, 600, 1500)] == ["negative", "low", "low", "middle", "high"]
    with pytest.raises(UserError, match="need 3 names"):
        Tiers((0.0, 1.0), ("a", "b"))
    rates = [WinRate(name, 10, mean, 0, 0) for name, mean in (("a", 5), ("b", -9), ("c", 1), ("d", 0))]
    assert ranked_tiers(rates, 0.25, 0.5) == {"a": "high", "c": "middle", "d": "negative", "b": "negative"}
    with pytest.raises(UserError, match="shares"):
        ranked_tiers(rates, 0.7, 0.5)


def test_filters_of_cards():
    hand = parse(texts.CASH)
    assert has_showdown(hand) and set(showdown_cards(hand)) == {1} and set(all_known_cards(hand)) == {1, 4}
    folded = parse(texts.CAP)
    assert not has_showdown(folded) and showdown_cards(folded) == {} and set(all_known_cards(folded)) == {3}


def test_a_session_is_never_cut():
    split = Split(0.6, 0.2, 0.2, seed=3)
    parts = {name: split_of(name, split) for name in map(str, range(2000))}
    counts = [sum(part == name for part in parts.values()) / 2000 for name in ("train", "valid", "test")]
    assert all(abs(count - share) < 0.04 for count, share in zip(counts, (0.6, 0.2, 0.2)))
    assert parts != {name: split_of(name, Split(0.6, 0.2, 0.2, seed=4)) for name in parts}
    with pytest.raises(UserError, match="add up to 1"):
        Split(0.5, 0.1, 0.1)


def test_sessions_of_hands():
    assert parse(texts.CASH).session == "PokerStars Vega's End"
    assert parse(texts.TOURNAMENT).session == "PokerStars tournament 99"
    assert parse(texts.TWICE).session == "PokerStars Mira 2020-01-02"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_no_name_is_left_and_nothing_else_changes(seed):
    hand = random_hand(seed)
    hidden = anonymise(hand, b"secret")
    text = json.dumps(to_json(hidden), ensure_ascii=False)
    assert not any(json.dumps(seat.player, ensure_ascii=False) in text for seat in hand.seats)
    assert parse(render(hidden)) == hidden
    back = dict(zip((seat.player for seat in hidden.seats), (seat.player for seat in hand.seats)))
    seats = tuple(dataclasses.replace(seat, player=back[seat.player]) for seat in hidden.seats)
    ends = tuple(dataclasses.replace(end, player=back[end.player]) for end in hidden.finishes)
    assert dataclasses.replace(hidden, seats=seats, finishes=ends) == hand


def test_pseudonyms_are_stable_and_keyed():
    name = pseudonym("Ada", "PokerStars", b"k")
    assert name == pseudonym("Ada", "PokerStars", b"k") != pseudonym("Ada", "PokerStars", b"l")
    assert name != pseudonym("Ada", "PHH", b"k") and name != pseudonym("ada", "PokerStars", b"k")
    with pytest.raises(UserError, match="secret key"):
        anonymise(parse(texts.OLD), b"")


def test_profiles():
    profiles = Profiles()
    profiles.add(parse(texts.CASH))
    ada, bo, cy = (profiles.get(name) for name in ("Ada", "Bo :D", "[Cy] (x)"))
    assert (ada.vpip, ada.pfr, ada.aggression, ada.fold_to_raise) == (100, 100, 67, 0)
    assert (bo.hands, bo.vpip, bo.pfr, bo.aggression, bo.fold_to_raise) == (1, 0, 0, None, 100)
    assert (cy.entered, cy.attacks, cy.calls, cy.faced) == (1, 2, 1, 2)
    assert profiles.get("Dee") == Profile()
    profiles.add(parse(texts.HILO))
    assert profiles.get("Ada").hands == 2 and profiles.get("Ada").aggression == 83


def test_known_cards_come_from_the_deal_the_showdown_and_the_summary():
    assert set(known_cards(parse(texts.CASH))) == {1, 4}


def test_a_json_that_is_no_hand():
    from lqlm.poker.codec import from_json

    with pytest.raises(HandError, match="no hand in JSON"):
        from_json({"hand_id": "1"})
    data = to_json(parse(texts.OLD))
    data["game"] = "Whist"
    with pytest.raises(HandError, match="Whist"):
        from_json(data)
