"""A person at the terminal: what is shown, what may be typed, and hands that can be read again."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.poker import play
from experiments.poker.__main__ import dispatch
from experiments.poker.advice import Adviser, checked, observation_of
from experiments.poker.play import OPPONENTS
from experiments.poker.play_game import PlayedTable, TableSettings, act_named, read_total
from lqlm.errors import UserError
from lqlm.poker import cards
from lqlm.poker.arena.actions import PotFractions, is_legal
from lqlm.poker.arena.bots import RandomBot
from lqlm.poker.arena.match import DECK, stream
from lqlm.poker.arena.table import deal
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.record import player_of
from lqlm.poker.replay import replay, validate
from lqlm.poker.stream import Read, read_hands
from tests.experiments.tiny_model import save_model

ADVISER = Adviser(RandomBot(PotFractions()), samples=100)


def table(seats=3, game="holdem", opponents=("call", "random"), seed=1, stack=100):
    return PlayedTable(TableSettings(game, seats, opponents, stack, seed), OPPONENTS)


def session(lines, adviser=ADVISER, hands=0, always=False, **more):
    at, out = table(**more), io.StringIO()
    play.play(at, adviser, lines, out, hands=hands, always=always)
    return at, out.getvalue()


def until_over(at, word="call"):
    at.deal()
    while at.seen is not None:
        at.act(act_named(word if at.seen.legal.call or word != "call" else "check", "", at.seen))


@given(
    seats=st.integers(2, 10),
    seed=st.integers(0, 10**6),
    game=st.sampled_from(["holdem", "omaha"]),
    words=st.lists(st.sampled_from(["fold", "check", "call", "all-in", "pot", "bet", "raise"]), min_size=8, max_size=8),
    stack=st.sampled_from([5, 100]),
)
@settings(max_examples=15)
def test_any_words_play_hands_that_are_records(seats, seed, game, words, stack):
    at, total = table(seats, game, ("random", "call", "fold"), seed, stack), 0
    for number in range(3):
        at.deal()
        for turn in range(100):
            if at.seen is None:
                break
            word = words[(number + turn) % len(words)] if turn < 8 else "call" if at.seen.legal.call else "check"
            try:
                act = act_named(word, str(at.seen.legal.least / 100), at.seen)
                assert is_legal(act, at.seen)
                at.act(act)
            except UserError as error:
                assert "\n" not in str(error)
                at.act(act_named("call" if at.seen.legal.call else "check", "", at.seen))
        hand = at.hands[number]
        assert validate(hand).stacks[1] - 100 * stack == at.over.chips
        assert parse(render(hand)).streets == hand.streets and [hole.seat for hole in hand.holes] == [1]
        total += at.over.chips
        assert at.won == total


def test_the_same_seed_is_the_same_game_and_the_button_moves():
    first, second, other = table(seed=4), table(seed=4), table(seed=5)
    for at in (first, second, other):
        for _ in range(3):
            until_over(at)
    assert first.hands == second.hands != other.hands
    assert [hand.table.button for hand in first.hands] == [1, 2, 3]
    assert len({hand.hand_id for hand in first.hands}) == 3
    assert first.names == {1: "You", 2: "Call 2", 3: "Random 3"}


def test_advice_changes_nothing_and_is_repeatable():
    plain, text = session(["c"] * 30, hands=2, seed=7, opponents=("random",))
    asked, advised = session([line for _ in range(30) for line in ("?", "c")], hands=2, seed=7, opponents=("random",))
    assert plain.hands == asked.hands and len(advised) > len(text)
    _, again = session(["c"] * 30, hands=2, seed=7, opponents=("random",), always=True)
    assert advised.count("Your equity is") == again.count("Your equity is") > 3


def test_what_is_shown():
    at, text = session(["?", "c"], seed=3)
    own = at.seen.cards
    assert f"you hold {cards.text(own)}" in text and "pot 1.5 bb" in text and "You can fold, call" in text
    assert "Your equity is" in text and "a call needs" in text and "A call is worth" in text
    assert "For research and study" in text and "no assistance while playing for money" in text
    assert "♥" not in text and text.strip().splitlines()[-1].endswith("Good-bye.")
    dealt = deal(stream(3, 0, DECK), 3, 2)
    others = {cards.DECK[card] for held in dealt.holes if held != own for card in held}
    assert at.over is None and not others & set(text.replace(",", " ").split())


def test_the_result_runs_on():
    _, text = session(["f", "f", "k"] * 20, hands=4, opponents=("random",))
    assert "after 4 hands" in text and "4 hands played: " in text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise 1", "1 bb is not allowed; give 2 to 100 bb"),
        ("raise 1e5", "'1e5' is no number of big blinds; write for example 2"),
        ("raise", "'' is no number of big blinds; write for example 2"),
        ("raise 9999999999", "'9999999999' is no number"),
        ("r 2.005", "2.005 bb is not allowed"),
        ("raise -5", "is no number"),
        ("check", "a check is not possible; call or fold"),
        ("dance", "'dance' is no decision; write fold, check, call, bet, raise, pot or all-in"),
        ("help", "Ctrl-D"),
    ],
)
def test_wrong_input_gets_a_line_and_is_asked_again(line, says):
    at, text = session([line], seats=3, seed=1)
    assert at.seen.legal.call and says in text
    assert at.seen.index == session([])[0].seen.index
    after, _ = session([line, "r 3"], seats=3, seed=1)
    assert any(act.seat == 1 and act.amount == 300 for act in (after.seen or after.over.hand).streets[0])


def test_words_and_sizes():
    seen = table(seed=1)
    seen.deal()
    at = seen.seen
    assert [read_total(text, at) for text in ("2", "2.5", "100")] == [200, 250, 10_000]
    assert act_named("pot", "", at).amount == at.bet + at.pot + at.legal.call
    assert act_named("all-in", "", at).all_in
    with pytest.raises(UserError, match="a hand is on"):
        seen.deal()
    with pytest.raises(UserError, match="no hand is on"):
        table().act(act_named("call", "", at))
    with pytest.raises(UserError, match="opponent 'shark': it is one of"):
        table(opponents=("shark",))
    with pytest.raises(UserError, match="2 to 10"):
        TableSettings(seats=11)


def test_an_observation_of_a_record_is_the_table_s_own():
    at = table(seats=4, seed=9)
    seen = []
    at.deal()
    while at.seen is not None:
        seen.append(at.seen)
        at.act(act_named("call" if at.seen.legal.call else "check", "", at.seen))
    hand = at.hands[0]
    mine = [decision for decision in replay(hand).decisions if decision.seat == 1]
    for one, decision in zip(seen, mine, strict=True):
        again = observation_of(hand, decision, one.cards)
        for field in ("seat", "cards", "street", "board", "pot", "bet", "stacks", "bets", "live", "legal", "streets"):
            assert getattr(again, field) == getattr(one, field), field
        first, second = (ADVISER.advise(h, one.decision, one.cards, np.random.default_rng(0)) for h in (hand, one.hand))
        assert first.facts == second.facts and first.acts == second.acts
        assert first.sentences == checked(first.facts) and abs(sum(chance for _, chance in first.acts) - 1) < 1e-9


def test_the_command_plays_saves_and_appends(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine" / "hands.txt"
    for times in (1, 2):
        monkeypatch.setattr("sys.stdin", io.StringIO("c\n" * 40))
        argv = ["play", "--seed", "6", "--seats", "3", "--opponents", "call", "--hands", "2", "--save", str(path)]
        assert dispatch(argv) == 0
        items = list(read_hands([path]))
        assert len(items) == 2 * times and all(isinstance(item, Read) for item in items)
    assert "You" in player_of(items[0].hand).values() and "2 hands saved" in capsys.readouterr().out


def test_ctrl_c_ends_politely():
    def lines():
        yield "c"
        raise KeyboardInterrupt

    at, text = session(lines())
    assert text.strip().splitlines()[-1].endswith("Good-bye.") and at.number >= 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--seats", "1"], "2 to 10 seats"),
        (["--opponents", "shark"], "opponent 'shark'"),
        (["--opponents", "model"], "--model DIR"),
        (["--adapter", "x"], "--adapter needs --model"),
        (["--raisers", "7Z"], "range '7Z'"),
        (["--samples", "3"], "--samples 3"),
        (["--web", "--save", "x"], "--save does not go with --web"),
        (["--web", "--port", "0"], "--port 0"),
    ],
)
def test_bad_arguments_are_one_line(argv, says, capsys):
    assert dispatch(["play", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_help_states_the_ethics(capsys):
    with pytest.raises(SystemExit):
        dispatch(["play", "--help"])
    text = capsys.readouterr().out
    assert "no assistance while playing for money" in text and "--web" in text


def test_a_model_advises(tmp_path, monkeypatch, capsys):
    folder = save_model(tmp_path / "model", max_position_embeddings=2048)
    monkeypatch.setattr("sys.stdin", io.StringIO("?\n"))
    argv = ["--model", str(folder), "--seats", "2", "--seed", "2", "--samples", "100", "--template", "compact"]
    assert dispatch(["play", *argv]) == 0
    text = capsys.readouterr().out
    rows = re.findall(r"^  (?:fold|call|raise to .*?|check|bet .*?) +([\d.]+)%", text, re.MULTILINE)
    shares = [float(number) for number in rows]
    assert len(shares) >= 3 and sum(shares) == pytest.approx(100, abs=0.3) and "Model 2" in text
    assert "The model says" in text


class Mute:
    """A model that cannot hold the prompt."""

    def act(self, observation, rng):
        raise UserError("a prompt of 900 tokens; the model holds 512")


def test_who_cannot_answer_stops_nothing():
    at, out = PlayedTable(TableSettings("holdem", 3, ("mute",), 100, 1), {"mute": Mute()}), io.StringIO()
    play.play(at, Adviser(Mute(), samples=100), ["?", "c", "k", "k", "k"], out, hands=1)
    assert len(at.hands) == 1 and "no advice: a prompt of 900 tokens" in out.getvalue()
    assert "Mute 2 cannot answer and checks or folds" in out.getvalue()
