"""A graded report of hands: what it says is what was computed, and nobody else's name or cards are in it."""

import dataclasses
import html
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.poker.__main__ import dispatch
from experiments.poker.advice import Adviser, observation_of
from experiments.poker.review import dealt_to, review
from experiments.poker.review_grade import GRADES, Rule, baseline, grade, totals
from experiments.poker.review_playout import played_on, with_any_cards
from lqlm.errors import UserError
from lqlm.poker import phh_writer
from lqlm.poker.arena.actions import PotFractions
from lqlm.poker.arena.bots import CallBot, RandomBot
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.record import Act, ActKind, Game, Hole, known_cards, player_of
from lqlm.poker.replay import replay
from lqlm.poker.stream import Read
from tests.poker.arena.test_table import RULES, Watched, play
from tests.poker.random_hands import random_hand
from tests.poker.test_explain import HAND, KNOWN

QUICK = Adviser(samples=100)


def hands(count=4, game=Game.HOLDEM, own=2):
    """Hands of bots as the player in seat 2 would have saved them."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        rules = Rules(game)
        played = play_hand(
            rules,
            [RandomBot(PotFractions((0.5,))), CallBot(), CallBot()],
            deal(rng, 3, rules.game.hole_cards),
            [np.random.default_rng([seed, at]) for at in range(3)],
            names=["Secret <Ann>", "Me & I", "Secret Bob"],
            hand_id=str(seed + 1),
        )
        mine = tuple(hole for hole in played.hand.holes if hole.seat == own)
        yield dataclasses.replace(played.hand, holes=mine)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(map(render, hands())), encoding="utf-8")
    return path


def run(*argv):
    assert dispatch(["review", *map(str, argv), "--samples", "100"]) == 0


def reads(some):
    return [Read(hand, "x.txt", 1) for hand in some]


def test_every_decision_of_the_player_is_there(log, tmp_path, capsys):
    out = tmp_path / "report.html"
    run(log, "--out", out)
    page, expected = out.read_text(encoding="utf-8"), list(hands())
    mine = [(n, d) for n, hand in enumerate(expected, 1) for d in replay(hand).decisions if d.seat == 2]
    assert re.findall(r'<article id="(.*?)"', page) == [f"d{n}-{d.index}" for n, d in mine]
    assert page.count("Your equity is") == len(mine) and f"{len(mine)} decisions in 4 hands" in page
    assert "Secret" not in page and "Me &" not in page and "Opponent 1" in page
    assert "no assistance while playing for money" in page and "Nothing here is a solution" in page
    assert not re.search(r"<script|src=|https?:|@import|url\(", page) and "default-src 'none'" in page
    assert f"{len(mine)} decisions in 4 hands" in capsys.readouterr().out
    for target in re.findall(r'href="#(.*?)"', page):
        assert f'id="{target}"' in page
    run(log, "--out", out, "--names")
    named = html.unescape(out.read_text(encoding="utf-8"))
    assert "Secret <Ann>" in named and "Review of Me & I" in named and "<Ann>" not in out.read_text(encoding="utf-8")


def test_what_is_judged_knows_nothing_of_what_came_later():
    adviser = Adviser(RandomBot(PotFractions((0.5,))), samples=100)
    for hand in hands(3):
        for row in review(reads([hand]), "Me & I", adviser, Rule(), seed=4):
            seen = observation_of(hand, row.decision, row.cards)
            cut = dataclasses.replace(hand, streets=seen.streets, boards=(seen.board,), results=(), returned=None)
            rng = np.random.default_rng([4, 1, row.decision.index])
            assert adviser.advise(cut, row.decision, row.cards, rng) == row.advice


def test_money_given_up_is_that_of_the_call():
    rows = list(review(reads([parse(HAND)]), "Cy", QUICK, Rule()))
    flop = next(row for row in rows if row.decision.street == 1)
    value = flop.advice.facts.equity * (36 + 20) - 20  # a call of 20 bb into 36 bb
    assert flop.advice.call_value / 200 == pytest.approx(value)
    assert flop.given_up == pytest.approx(max(0.0, -value))
    fold = dataclasses.replace(flop, decision=dataclasses.replace(flop.decision, act=Act(3, ActKind.FOLD)))
    assert fold.given_up == pytest.approx(max(0.0, value))
    bet = dataclasses.replace(flop, decision=dataclasses.replace(flop.decision, act=Act(3, ActKind.RAISE, 9000)))
    assert bet.given_up is None
    found = totals([*rows, fold])
    assert found.given_up == pytest.approx(sum(row.given_up or 0 for row in [*rows, fold]))
    assert found.hands == 1 and found.won == pytest.approx(-46 / 2) and sum(found.grades.values()) == len(rows) + 1


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda c: sum(c) > 0.1), st.integers(0, 2))
def test_a_grade_is_the_share_of_the_best(chances, taken):
    kinds = (ActKind.FOLD, ActKind.CALL, ActKind.RAISE)
    rows = [(Act(1, kind, 5 * (kind is not ActKind.FOLD)), p) for kind, p in zip(kinds, chances)]
    rows.append((Act(1, ActKind.RAISE, 9), 0.25))  # sizes of one kind count together
    sums = [chances[0], chances[1], chances[2] + 0.25]
    found, ratio = grade(Act(1, kinds[taken], 7), rows, Rule())
    assert ratio == pytest.approx(sums[taken] / max(sums))
    limits = (*Rule().bounds, 0.0)
    assert found == next(name for name, bound in zip(GRADES, limits) if ratio >= bound)
    assert grade(Act(1, ActKind.CHECK), rows, Rule())[0] == "D"


@given(st.floats(0, 1), st.floats(0.05, 0.9), st.integers(1, 5))
def test_the_baseline_is_its_formula(equity, needed, opponents):
    agent = Watched(CallBot())
    play([agent] * 3, 1, RULES)
    seen = agent.seen[0]
    facts = dataclasses.replace(KNOWN, equity=equity, needed=needed, opponents=opponents)
    rule, rows = Rule(), baseline(seen, facts, Rule())
    chances = {act.kind: chance for act, chance in rows}
    raises = 1 / (1 + math.exp(-(equity - 1 / (opponents + 1) - rule.edge) / rule.width))
    calls = (1 - raises) / (1 + math.exp(-(equity - needed) / rule.width))
    assert chances[ActKind.RAISE] == pytest.approx(raises) and chances[ActKind.CALL] == pytest.approx(calls)
    assert sum(chances.values()) == pytest.approx(1) and [p for _, p in rows] == sorted(chances.values(), reverse=True)
    assert baseline(seen, dataclasses.replace(facts, equity=None), rule) == ()


def test_a_model_s_probabilities_are_held_against_the_decision():
    (hand,) = hands(1)
    adviser = Adviser(RandomBot(PotFractions((0.5,))), samples=100)
    rows = list(review(reads([hand]), "Me & I", adviser, Rule()))
    assert rows and all(len(row.chances) >= 2 and sum(p for _, p in row.chances) == pytest.approx(1) for row in rows)
    for row in rows:
        kinds = [act.kind for act, _ in row.chances]
        assert row.ratio == pytest.approx(kinds.count(row.decision.act.kind) / max(map(kinds.count, kinds)))
        assert "The model says" in " ".join(row.advice.sentences)


def test_logs_of_all_kinds(tmp_path, capsys):
    folder, out = tmp_path / "logs", tmp_path / "r.html"
    folder.mkdir()
    several = [random_hand(seed) for seed in range(12)]
    (folder / "a.txt").write_text("\n\n".join(map(render, several)) + "\n\nPokerStars Hand #1: broken\n")
    (folder / "b.phh").write_text(phh_writer.render(next(hands(1))), encoding="utf-8")
    names = [name for hand in several for name in player_of(hand).values()]
    for name in sorted(set(names), key=names.count)[-2:]:
        run(folder, "--out", out, "--player", name)
        seats = [(h, seat) for h in several for seat, n in player_of(h).items() if n == name]
        mine = sum(decision.seat == seat for h, seat in seats for decision in replay(h).decisions)
        assert out.read_text(encoding="utf-8").count("<article") == mine
        assert "1 skipped" in capsys.readouterr().out


def test_cards_that_are_not_told_are_not_graded():
    (hand,) = hands(1)
    blind = dataclasses.replace(hand, holes=(), results=())
    rows = list(review(reads([blind]), "Me & I", QUICK, Rule()))
    assert rows and all(row.grade is None and row.given_up is None for row in rows)
    assert totals(rows).ungraded == len(rows) and totals(rows).grades == {}
    hilo = next(hand for hand in map(random_hand, range(200)) if hand.game is Game.OMAHA_HILO and known_cards(hand))
    who = player_of(hilo)[next(iter(known_cards(hilo)))]
    rows = list(review(reads([hilo]), who, QUICK, Rule()))
    assert all(row.grade is None for row in rows) and all(row.advice.facts.equity is None for row in rows if row.cards)


def test_playing_on_uses_no_card_of_the_others(tmp_path, log):
    (hand,) = hands(1)
    decision = next(one for one in replay(hand).decisions if one.seat == 2 and one.street == 1)
    seen = observation_of(hand, decision, known_cards(hand)[2])
    first = played_on(hand, seen, decision.act, 4, 0.75, 0)
    other = played_on(dataclasses.replace(hand, results=()), seen, decision.act, 4, 0.75, 0)
    assert first == other and first[0].act == decision.act and first[0].gain == 0.0 and len(first) >= 2
    full = with_any_cards(hand, seen)
    every = [card for hole in full.holes for card in hole.cards] + list(hand.boards[0])
    assert len(set(every)) == len(every) and known_cards(full)[2] == known_cards(hand)[2]
    run(log, "--out", tmp_path / "p.html", "--playouts", "2", "--limit", "2")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("Played on, against") == 2 and "no telling" in page and "flattered by chance" in page
    assert "later decisions are left out (--limit)" in page
    run(log, "--out", tmp_path / "p.html", "--limit", "1000")
    assert "left out" not in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_bad_input_is_one_line(log, tmp_path, capsys):
    out = str(tmp_path / "r.html")
    whole = tmp_path / "all.txt"
    whole.write_text(render(random_hand(1)), encoding="utf-8")
    for argv, says in (
        ([str(log), "--out", out, "--player", "Nobody"], "'Nobody' takes no decision in these hands"),
        ([str(tmp_path / "none.txt"), "--out", out], "no hand histories there"),
        ([str(log), "--out", out, "--limit", "0"], "argument --limit: 0 is too small; give 1 or more"),
    ):
        assert dispatch(["review", *argv]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    with pytest.raises(UserError, match="say whose decisions"):
        dealt_to(reads([next(hands(1)), dataclasses.replace(next(hands(1)), holes=(Hole(1, (0, 1)),))]))
    assert dealt_to(reads(hands(2))) == "Me & I"
