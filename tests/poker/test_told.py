"""What a decision is told besides what is to be seen: right, the same at the table and in logs, not of the future."""

import dataclasses
from decimal import Decimal

import numpy as np
import pytest

from experiments.poker.ask import AskSettings, ask_of
from experiments.poker.prompts import _options
from lqlm.errors import UserError
from lqlm.poker import told
from lqlm.poker.arena.assumed import Assumption, raisers
from lqlm.poker.arena.bots import RandomBot
from lqlm.poker.arena.features import PUBLIC, Known, decision_table
from lqlm.poker.arena.language import LanguageAgent
from lqlm.poker.arena.lockstep import play_lockstep
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.cards import CATEGORIES, cards
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.profiles import Profiles
from lqlm.poker.prompts import read_compact, read_prompt, read_terse, write_compact, write_prompt, write_terse
from lqlm.poker.record import Game, known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import ViewConfig, names_of, state_of
from lqlm.poker.told import NAMES, Spot, equity, features_of, made_hand, pot_odds
from tests.poker.random_hands import random_hand


def played(number, agent, players=4):
    rngs = [np.random.default_rng([number, at]) for at in range(players)]
    return play_hand(
        Rules(), [agent] * players, deal(np.random.default_rng(number), players, 2), rngs, hand_id="7"
    ).hand


@pytest.mark.parametrize(
    ("board", "exact"), [("", 0.634), ("Ad7c2s", 0.5485), ("Ad7c2s3h", 0.4468), ("Ad7c2s3h9d", 0.3763)]
)
def test_equity_is_the_exact_one_within_its_error(board, exact):
    """Before the flop from 4 million deals, later over every hand and board (``lqlm.poker.equity.range_equity``)."""
    assert abs(equity(cards("KsQs"), cards(board)) - 100 * exact) < 0.5 + 4 * 1.6


def test_equity_depends_on_the_cards_alone():
    hole, board = cards("KsQs"), cards("Ad7c2s")
    assert equity(hole, board) == equity(hole[::-1], board[::-1])
    assert len({equity(hole, board, samples) for samples in (50, 60, 70, 80)}) > 1  # they are drawn


def test_equities_that_are_worked_out_together_are_those_of_each_alone(monkeypatch):
    """Of any number of public cards, some twice; afterwards nothing has to be worked out."""
    alone = [("KsQs", ""), ("KsQs", "Ad7c2s"), ("AhAd", "Ad7c2s3h"[2:]), ("QsKs", ""), ("2h3h4h5h", "Ad7c2s")]
    asked = [(cards(hole), cards(board)) for hole, board in alone]
    monkeypatch.setattr(told, "_KNOWN", {})
    each = [equity(*one, 70) for one in asked]
    monkeypatch.setattr(told, "_KNOWN", {})
    told.know_equities(asked, 70)
    monkeypatch.setattr(told, "equities_against_one", None)
    assert [equity(*one, 70) for one in asked] == each
    told.know_equities([], 70)


def test_what_is_kept_of_equities_is_bounded(monkeypatch):
    monkeypatch.setattr(told, "_KNOWN", {})
    monkeypatch.setattr(told, "_MOST_KNOWN", 2)
    found = [equity(cards(hole), (), 50) for hole in ("KsQs", "7h2c", "AhAd", "KsQs")]
    assert found[0] == found[3] and len(told._KNOWN) <= 2


def test_an_agent_at_many_tables_works_out_equities_together(monkeypatch):
    """One call for all tables, before the prompts are written."""
    calls, real = [], told.equities_against_one
    counted = lambda holes, *more: calls.append(len(holes)) or real(holes, *more)  # noqa: E731
    monkeypatch.setattr(told, "_KNOWN", {})
    monkeypatch.setattr(told, "equities_against_one", counted)
    uniform = lambda prompts, answers: [np.zeros(len(each)) for each in answers]  # noqa: E731
    agent = LanguageAgent(uniform, view=ViewConfig(features=("equity",)))
    play_lockstep(Rules(), agent, [agent], 4, 0, samples=4)
    assert calls[0] == 4 and len(calls) < sum(calls) / 2  # the first round: the cards of four deals, eight tables


@pytest.mark.parametrize(
    ("hole", "board", "made"),
    [
        ("7s2h", "", "72o"),
        ("AhKh", "Kd7c2s", "top pair"),
        ("Ah7h", "Kd7c2s", "middle pair"),
        ("Ah2h", "Kd7c2s", "low pair"),
        ("AhAd", "Kd7c2s", "overpair"),
        ("8h8d", "Kd7c2s", "underpair"),
        ("AhQd", "Kd7c7s", "board pair"),
        ("AhQd", "Kd7c2s", "high card"),
        ("KhQd", "Kd7c7s", "two pair"),
        ("KhQh", "9h7h2h3d", "flush"),
    ],
)
def test_what_a_hand_has_made(hole, board, made):
    assert made_hand(cards(hole), cards(board)) == made


def test_spots_and_odds_are_those_that_the_trees_see():
    """Two implementations: the table of features for trees, and what prompts are told."""
    hands = [Known("s", hand, known_cards(hand)) for hand in (played(n, RandomBot()) for n in range(12))]
    table = decision_table(hands, lambda hole, board: 0.5)
    column = {name: table.features[:, PUBLIC.index(name)] for name in PUBLIC}
    row = 0
    for _, hand, known in hands:
        for decision in replay(hand).decisions:
            told = state_of(
                hand, decision, known[decision.seat], ViewConfig(False, features=("spot", "pot-odds"))
            ).features
            spot, big = told.spot, hand.big_blind
            assert spot.live + 1 == column["live"][row] and spot.behind == column["to act after"][row]
            assert spot.raises == column["raises on the street"][row] and spot.call == round(column["call"][row] * big)
            assert abs(told.pot_odds - 100 * column["pot odds"][row]) <= 0.5
            row += 1
    assert row == len(table.labels) > 50 and column["raises on the street"].max() > 1


def test_equity_against_ranges_falls_where_a_raiser_is_taken_to_hold_much():
    """Before the flop with KQs: against one random hand exactly .634, against aces about .17, whoever raised."""
    for hand in (played(number, RandomBot(), players=2) for number in range(40)):
        first = [decision for decision in replay(hand).decisions if not decision.board]
        for decision in (one for one in first if raisers(hand, one) - {one.seat}):
            assert abs(told.range_equity(hand, decision, cards("KsQs"), Assumption("AA")) - 17) < 7
            assert abs(told.range_equity(hand, decision, cards("KsQs"), Assumption("random")) - 63.4) < 7
            assert told.range_equity(hand, decision, cards("AsAh"), Assumption("AsAh")) is None  # no deal is left
            return
    raise AssertionError("nobody raised")


def test_equity_against_ranges_depends_on_cards_and_ranges_alone(monkeypatch):
    hand = played(2, RandomBot())
    decision = replay(hand).decisions[0]
    view = ViewConfig(features=("range-equity",), against=Assumption(others="20%"))
    both = [told.range_equity(hand, decision, hole, view.against) for hole in (cards("KsQs"), cards("QsKs"))]
    assert both[0] == both[1] == state_of(hand, decision, cards("KsQs"), view).features.range_equity
    assert both[0] < told.range_equity(hand, decision, cards("KsQs"), Assumption())
    found = []
    for ranges in (["60%", "10%"], ["10%", "60%"]):  # whoever sits where
        monkeypatch.setattr(told, "assumed_ranges", lambda *args, ranges=ranges: ranges)
        told._range_equity.cache_clear()
        found.append(told.range_equity(hand, decision, cards("KsQs"), Assumption(), samples=40))
    assert found[0] == found[1]


def test_a_command_is_told_what_a_config_tells():
    ask = AskSettings("terse", False, False, (3, 6), ("range-equity", "spot"), "loose", "22+", "50%", True)
    assert ask_of(_options(["D", "--out", "E", *ask.arguments])) == ask
    assert ask_of(_options(["D", "--out", "E", *AskSettings().arguments])) == AskSettings()


def test_draws_are_told_on_flop_and_turn_of_holdem_only():
    hand = random_hand(3, game=Game.OMAHA, known="all")
    for decision in replay(hand).decisions:
        found = features_of(hand, decision, known_cards(hand)[decision.seat], ("draws", "class"), Decimal(0))
        assert found.outs is None and not found.draws
        assert (found.made in CATEGORIES) if decision.street else ("-" in found.made)
    hand = played(2, RandomBot())
    decisions = [decision for n in range(12) for decision in replay(played(n, RandomBot())).decisions]
    for decision in {len(decision.board): decision for decision in decisions}.values():
        found = features_of(
            hand, decision, cards("AhKh") if not {48, 44} & set(decision.board) else (0, 5), ("draws",), 0
        )
        assert (found.outs is not None) == (len(decision.board) in (3, 4))


def test_pot_odds():
    assert pot_odds(Decimal(50), Decimal(150)) == 25 and pot_odds(Decimal(0), Decimal(100)) == 0


@pytest.mark.parametrize(
    ("write", "read"), [(write_prompt, read_prompt), (write_compact, read_compact), (write_terse, read_terse)]
)
def test_the_table_tells_what_the_logs_tell(write, read):
    """Every feature, habits among them: the prompts of hands that are played are those made of their logs."""
    asked, seen, told = [], Profiles(), Profiles()

    def score(prompts, answers):
        asked.extend(prompts)
        return [np.zeros(len(several)) for several in answers]

    view = ViewConfig(features=NAMES, style="loose")
    agent = LanguageAgent(score, view=view, write=write, profiles=seen.of)
    for number in range(3):
        hand = parse(render(played(number, agent, players=3)))
        held = known_cards(hand)
        expected = [
            write(state_of(hand, decision, held[decision.seat], view, profiles=names_of(hand, told.of)))
            for decision in replay(hand).decisions
        ]
        assert asked == expected
        told.add(hand)
        seen.add(hand)
        asked.clear()
    assert read(expected[0]).views[0].habits.hands == 2


def test_nothing_of_the_future_is_told():
    hand, view = played(4, RandomBot()), ViewConfig(features=NAMES)
    decisions = replay(hand).decisions
    for decision in decisions[: len(decisions) // 2]:
        held = known_cards(hand)[decision.seat]
        blind = dataclasses.replace(
            hand, holes=tuple(hole for hole in hand.holes if hole.seat == decision.seat), results=()
        )
        at = decision.index - sum(map(len, hand.streets[: decision.street]))
        streets = (*hand.streets[: decision.street], hand.streets[decision.street][:at])
        assert state_of(dataclasses.replace(blind, streets=streets), decision, held, view) == state_of(
            hand, decision, held, view
        )


@pytest.mark.parametrize("make", [ViewConfig, AskSettings])
def test_a_feature_that_nobody_knows(make):
    with pytest.raises(UserError, match="'luck' is not known; choose among equity, range-equity"):
        make(features=("equity", "luck"))


def test_a_range_that_is_none():
    with pytest.raises(UserError, match="range 'XX': 'XX' is no hand"):
        AskSettings(raisers="XX")


def test_a_spot_is_counted_to_the_decision():
    hand = played(0, RandomBot())
    first = replay(hand).decisions[0]
    assert features_of(hand, first, (0, 1), ("spot",), Decimal(100)).spot == Spot(3, 1, 0, Decimal(100))
