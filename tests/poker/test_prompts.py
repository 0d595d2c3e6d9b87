from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.poker import cards
from lqlm.poker.answers import (
    Answer,
    act_of,
    chosen_answer,
    exact_answer,
    nearest,
    read_answer,
    write_answer,
    write_short,
)
from lqlm.poker.pokerstars import parse
from lqlm.poker.profiles import Profiles
from lqlm.poker.prompts import read_compact, read_prompt, read_terse, write_compact, write_prompt, write_terse
from lqlm.poker.record import ActKind, Game, HandError, Limit, PostKind, known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import Habits, Said, State, View, ViewConfig, names_of, state_of
from lqlm.poker.told import Features, Spot, pot_odds
from tests.poker import texts
from tests.poker.random_hands import random_hand

AMOUNT = st.decimals(0, 100_000, places=2)
POSITIVE = st.decimals("0.01", 100_000, places=2)
PERCENT = st.integers(0, 100)
WORD = st.text("abcdefghij -", min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def said(draw):
    streets = sorted(draw(st.lists(st.integers(0, 3), max_size=5)))
    found = []
    for street in streets:
        word = draw(st.sampled_from(["ante", "post", "fold", "check", "call", "bet", "raise"]))
        amount = draw(POSITIVE) if word not in ("fold", "check") else Decimal(0)
        found.append(Said(street, word, amount))
    return tuple(found)


HABITS = st.none() | st.builds(Habits, st.integers(0, 999), *[st.none() | PERCENT] * 4)


@st.composite
def states(draw):
    game = draw(st.sampled_from(list(Game)))
    deck = draw(st.permutations(range(52)))
    order = tuple(draw(st.lists(st.integers(1, 10), min_size=2, max_size=10, unique=True)))
    me = draw(st.sampled_from(order))
    choices = tuple(draw(st.lists(POSITIVE, max_size=8)))
    first = draw(st.sampled_from([("fold", "call"), ("check",)]))
    more = (draw(st.sampled_from(["bet", "raise"])),) if choices else ()
    return State(
        game=game,
        limit=draw(st.sampled_from(list(Limit))),
        currency=draw(st.sampled_from(["", "USD", "EUR"])),
        small=draw(POSITIVE),
        big=draw(POSITIVE),
        order=order,
        small_blind=draw(st.sampled_from([0, *order])),
        me=me,
        cards=tuple(deck[: game.hole_cards]),
        board=tuple(deck[10 : 10 + draw(st.sampled_from([0, 3, 4, 5]))]),
        money=draw(AMOUNT),
        actions=draw(said()),
        views=tuple(View(seat, draw(AMOUNT), draw(said()), draw(HABITS)) for seat in order if seat != me),
        pot=draw(AMOUNT),
        legal=first + more,
        choices=choices,
        all_in=draw(AMOUNT) if choices else Decimal(0),
        features=Features(
            draw(st.none() | PERCENT),
            draw(st.none() | PERCENT),
            draw(st.none() | st.integers(0, 20)),
            tuple(draw(st.lists(WORD, max_size=2))),
            draw(WORD | st.just("")),
            draw(st.just("") | st.sampled_from(["AKs", "top pair"])),
            draw(st.none() | st.builds(Spot, *[st.integers(0, 9)] * 3, AMOUNT)),
            draw(st.none() | PERCENT),
        ),
    )


@settings(max_examples=60, deadline=None)
@given(states())
def test_a_prompt_is_read_back_into_its_state(state):
    assert read_prompt(write_prompt(state)) == state
    assert read_compact(write_compact(state)) == state
    assert read_terse(write_terse(state)) == state


def test_the_blinds_of_fixed_limit_are_no_bets():
    """Stakes are its bets, $2/$4 with blinds of 1 and 2, or less for the small one."""
    hand = random_hand(5, game=Game.HOLDEM, limit=Limit.FIXED, known="all")
    decision = replay(hand).decisions[0]
    state = state_of(hand, decision, known_cards(hand)[decision.seat], ViewConfig())
    unit = Decimal(1).scaleb(-hand.money.decimals)
    posted = [post.amount for post in hand.posts if post.kind is PostKind.SMALL]
    assert state.big == hand.stakes.small * unit and state.big < hand.stakes.big * unit
    assert state.small == max(posted, default=hand.stakes.small // 2) * unit < state.big


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_the_prompts_of_a_hand(seed, round_up):
    hand = random_hand(seed, known="all")
    held = known_cards(hand)
    config, decimals = ViewConfig(round_up), hand.money.decimals
    for decision in replay(hand).decisions:
        state = state_of(hand, decision, held[decision.seat], config)
        assert read_prompt(write_prompt(state)) == state == read_compact(write_compact(state))
        assert read_terse(write_terse(state)) == state
        said = chosen_answer(decision, decimals, state)
        assert read_answer(write_answer(said)) == said == read_answer(write_short(said))
        assert said.word in (*state.legal, "fold", "all-in")
        exact = exact_answer(decision, decimals)
        assert act_of(exact, decision, decimals) == decision.act or hand.stakes.cap
        chosen = act_of(said, decision, decimals)
        assert chosen.kind is decision.act.kind
        shown = [state.pot, state.money, *(view.money for view in state.views)]
        if round_up:
            big = Decimal(hand.big_blind).scaleb(-decimals)
            assert all(amount % big == 0 for amount in shown)


def decision_of(name, at, **config):
    hand = parse(texts.EVERY[name])
    decision = replay(hand).decisions[at]
    return hand, decision, state_of(hand, decision, known_cards(hand)[decision.seat], ViewConfig(**config))


def test_the_template_of_the_paper():
    _, decision, state = decision_of("cash", 4)
    assert write_prompt(state) == (
        "You are an experienced gambler. Now you need to assist me to make decisions in Texas Hold'em No Limit games. "
        "You have been provided with a series of observable information:\n"
        "Player amount: [3], Currency: USD, Blind value: [0.5/1], Order: ['1', '2', '4'], Seat 1 is small blind.\n"
        """My cards: ['Ah', 'Kd'], the characteristics of my cards: ["high", "close"], My seat: [Seat 1].\n"""
        """Stage: "FLOP", Public cards: ['As', '7c', '2d', '**', '**'].\n"""
        """My rank: ["Pair"], Money: [91], Action: ["preflop post 1", "preflop raise 9"].\n"""
        "Seat 2: Cards: ['**', '**'], Money: [55], "
        """Action: ["preflop post 1", "preflop fold"], Discard: [True].\n"""
        "Seat 4: Cards: ['**', '**'], Money: [71], "
        """Action: ["preflop raise 3", "preflop call 6"], Discard: [False].\n"""
        "The pot value is [19].\n"
        """The actions can be: ["check", "bet"]. What should I do? If I choose to "bet" or "raise", then how much? """
        "Choose a number from {1, 3, 6, 10, 20, 50, all-in 91}."
    )
    assert write_answer(chosen_answer(decision, 2, state)) == "You should bet 10."
    assert write_compact(state) == (
        "NLH USD 0.5/1 1-2-4 sb1\n"
        "me 1 AhKd 91 p1 r9 ; As7c2d\n"
        "2 55 p1 f\n"
        "4 71 r3 c6\n"
        "pot 19 ; check bet 1 3 6 10 20 50 all 91"
    )


def test_amounts_that_are_not_rounded():
    _, _, state = decision_of("cash", 1, round_up=False)
    assert state.actions == (Said(0, "post", Decimal("0.5")),) and state.money == Decimal("99.5")
    assert state.choices[0] == Decimal(6) and state.all_in == Decimal(100)


def test_features_are_told():
    hand, decision, _ = decision_of("cash", 4)
    profiles = Profiles()
    profiles.add(hand)
    features = Features(62, 25, 8, ("flush draw", "gutshot"), "aggressive")
    held = known_cards(hand)[decision.seat]
    state = state_of(hand, decision, held, ViewConfig(), features, names_of(hand, profiles.of))
    text = write_prompt(state)
    assert "My equity: [62%], Pot odds: [25%], Outs: [8], Draws: [flush draw, gutshot]." in text
    assert "Please play in this style: [aggressive]." in text
    assert "Hands: [1], VPIP: [0%], PFR: [0%], Aggression: [-], Fold to raise: [100%]." in text
    assert "\neq 62; odds 25; outs 8; draws flush draw, gutshot\nstyle aggressive\npot" in write_compact(state)
    assert read_prompt(text) == state


@pytest.mark.parametrize(
    ("write", "read", "old", "new"),
    [
        (write_prompt, read_prompt, "Currency", "Currencies"),
        (write_prompt, read_prompt, "The pot value", "The pot"),
        (write_prompt, read_prompt, '"FLOP"', '"TURN"'),
        (write_compact, read_compact, "pot 19", "pots 19"),
        (write_compact, read_compact, "p1 r9", "p1 x9"),
        (write_compact, read_compact, "NLH", "NLX"),
    ],
)
def test_what_is_no_prompt(write, read, old, new):
    text = write(decision_of("cash", 4)[2])
    assert old in text
    with pytest.raises(HandError, match=r"template|stage|compact prompt"):
        read(text.replace(old, new))


def test_every_answer_there_and_back():
    for word in ("fold", "check", "call", "all-in"):
        assert read_answer(write_answer(Answer(word))) == Answer(word) == read_answer(write_short(Answer(word)))
    assert (
        write_answer(Answer("fold")) == "You should fold." and write_answer(Answer("all-in")) == "You should go all-in."
    )
    assert write_answer(Answer("raise", Decimal("0.5"))) == "You should raise to 0.5."


@pytest.mark.parametrize(
    "text", ["", "You should.", "fold 3", "raise", "bet", "raise to", "call me", "I fold.", "raise -1"]
)
def test_what_is_no_answer(text):
    with pytest.raises(HandError, match="no answer"):
        read_answer(text)


@given(st.text(max_size=30))
def test_an_answer_of_any_text_is_read_or_refused(text):
    try:
        answer = read_answer(text)
    except HandError:
        return
    assert read_answer(write_answer(answer)) == answer


@given(POSITIVE, st.lists(POSITIVE, min_size=1, max_size=6))
def test_the_nearest_choice(amount, choices):
    best = nearest(amount, choices)
    assert best in choices
    ratio = max(best / amount, amount / best)
    assert all(ratio <= max(choice / amount, amount / choice) * Decimal("1.0000001") for choice in choices)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer("call"), "check, bet"),
        (Answer("raise", Decimal(5)), "is not legal here"),
        (Answer("bet", Decimal("0.5")), "bets 100 to 9100"),
        (Answer("bet", Decimal(92)), "is not legal here"),
        (Answer("bet", Decimal("5.001")), "more than 2 decimals"),
    ],
)
def test_an_answer_that_is_not_legal(answer, message):
    _, decision, _ = decision_of("cash", 4)
    with pytest.raises(HandError, match=message):
        act_of(answer, decision, 2)


def test_an_answer_at_the_table():
    _, decision, _ = decision_of("cash", 4)
    act = act_of(Answer("all-in"), decision, 2)
    assert (act.kind, act.amount, act.all_in) == (ActKind.BET, 9100, True)
    _, decision, _ = decision_of("tournament", 1)
    act = act_of(Answer("all-in"), decision, 0) if decision.legal.most else act_of(Answer("call"), decision, 0)
    assert act.kind is ActKind.CALL and act.amount == 650


def test_pot_odds():
    assert pot_odds(Decimal(50), Decimal(100)) == 33 and pot_odds(Decimal(0), Decimal(100)) == 0


def test_the_wrong_number_of_cards():
    hand, decision, _ = decision_of("cash", 4)
    with pytest.raises(HandError, match="2 hole cards"):
        state_of(hand, decision, cards.cards("AhKdQs"), ViewConfig())


@pytest.mark.parametrize(
    ("game", "limit"), [(Game.HOLDEM, Limit.NO_LIMIT), (Game.OMAHA, Limit.POT_LIMIT), (Game.HOLDEM, Limit.FIXED)]
)
@pytest.mark.parametrize("seed", range(4))
def test_choices_are_within_what_is_legal_and_hold_the_greatest(game, limit, seed):
    hand = random_hand(seed, game=game, limit=limit, known="all")
    for decision in replay(hand).decisions:
        state = state_of(hand, decision, known_cards(hand)[decision.seat], ViewConfig())
        limits = [Decimal(bound).scaleb(-hand.money.decimals) for bound in (decision.legal.least, decision.legal.most)]
        assert all(limits[0] <= choice <= limits[1] for choice in state.choices)
        if decision.legal.most:  # the table offers it, so the prompt must name it
            assert limits[1] == (state.all_in or max(state.choices))
        assert read_terse(write_terse(state)) == read_compact(write_compact(state)) == state
