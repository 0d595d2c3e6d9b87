"""``evaluate`` with models as heroes and opponents: by a directory, beside bots, on the same cards."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.poker import measure, models
from experiments.poker.__main__ import dispatch
from experiments.poker.ask import AskSettings, tokens_of
from experiments.poker.evaluate_tables import confusion_text, named, tables
from experiments.poker.measure import Line
from lqlm.errors import UserError
from lqlm.poker.answers import read_answer
from lqlm.poker.arena.bots import BOTS
from lqlm.poker.arena.features import CLASSES
from lqlm.poker.arena.match import mbb, play_match
from lqlm.poker.arena.rules import Rules
from lqlm.poker.policy import Shapes
from lqlm.poker.templates import TEMPLATES
from tests.experiments.tiny_model import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("poker") / "model", max_position_embeddings=512, num_hidden_layers=1)


def run(folder, *argv):
    code = dispatch(["evaluate", "--out", str(folder), *map(str, argv)])
    found = folder / "evaluate.json"
    return code, json.loads(found.read_text()) if found.exists() else {}


def test_two_models_and_a_bot_on_the_same_cards(model, tmp_path, capsys):
    argv = ["--models", f"one={model}", f"two={model}", "--heroes", "one", "two", "call", "--opponents", "fold"]
    code, found = run(tmp_path, *argv, "--hands", 6, "--iterations", 1, "--rows", 4)
    assert code == 0
    one, two, call = found["matches"]
    assert one["mbb"] == two["mbb"] and one["tokens per prompt"] > 50 and "tokens per prompt" not in call
    assert one["seconds per decision"] > 0 and one["illegal"] == 0
    same, other = found["differences"]
    assert (same["hero"], other["hero"], same["than"]) == ("two", "call", "one")
    assert same["mbb"]["duplicate"] == [0, 0] and same["unpaired"] > 0
    assert other["mbb"]["hands"][0] == pytest.approx(call["mbb"]["hands"][0] - one["mbb"]["hands"][0])
    (width,) = found["widths"]
    assert width["lines"] == 3 and width["hands"] == 1
    small = {(row["game"], row["policy"]): row for row in found["small games"]}
    assert small["leduc", "one"] == small["leduc", "two"] | {"policy": "one"}
    assert 0 < small["leduc", "one"]["exploitability"] < 6 and "against cfr+" in small["kuhn", "one"]
    shown = capsys.readouterr().out
    assert "two - 1 x fold" in shown and "of two lines" in shown and (tmp_path / "matches.png").stat().st_size > 5000
    assert (tmp_path / "differences.png").stat().st_size > 5000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "matches").iterdir()}
    assert len(before) == 6  # a row and its deals for each line
    run(tmp_path, *argv, "--hands", 6, "--iterations", 0, "--rows", 4)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "matches").iterdir()}


def test_lines_of_other_cards_are_not_compared(tmp_path):
    argv = ["--opponents", "fold", "--hands", 4, "--iterations", 0]
    assert len(run(tmp_path, *argv, "--heroes", "call", "random")[1]["differences"]) == 1
    code, found = run(tmp_path, *argv, "--heroes", "random", "tight", "--than", "random", "--seed", 1)
    assert code == 0 and [row["hero"] for row in found["differences"]] == ["tight"]
    code, found = run(tmp_path, *argv, "--heroes", "random", "--than", "call", "--seed", 1)
    assert code == 0 and found["differences"] == []  # of the caller there are other cards only


def test_seats_games_and_leaks_in_one_command(tmp_path):
    argv = ["--heroes", "call", "--opponents", "never-bluffs", "--seats", 2, 3, "--games", "holdem", "omaha"]
    code, found = run(tmp_path, *argv, "--hands", 6, "--iterations", 0)
    assert code == 0 and found["small games"] == []
    assert [(row["game"], row["seats"], row["hands"]) for row in found["matches"]] == [
        ("Hold'em", 2, 6),
        ("Hold'em", 3, 6),
        ("Omaha", 2, 6),
        ("Omaha", 3, 6),
    ]
    assert named(found["matches"][3]) == "call - 2 x never-bluffs (Omaha)"


def test_a_line_is_what_play_match_plays_and_is_played_again_without_its_deals(tmp_path):
    def play():
        (row,) = measure.matches([Line("random", "call", 3)], BOTS, Rules(), 9, 5, tmp_path)
        return row

    row, plain = play(), mbb(play_match(Rules(), BOTS["random"], [BOTS["call"]] * 2, 3, 5))
    assert {name: pair[0] for name, pair in row["mbb"].items()} == {name: e.mean for name, e in plain.items()}
    (tmp_path / "random_call_3.npz").unlink()
    again = play()
    assert again["mbb"] == row["mbb"] and (tmp_path / "random_call_3.npz").exists()


def test_answers_that_are_tokenized_once_are_tokenized_as_in_training(model):
    """Whatever stands before them: prompts of the table, and words of any kind."""
    for chat in ("yes", "no"):
        opened = models.open_model(models.choice_of(f"x={model},chat={chat}"), 4)
        answers, tokenizer = ("fold", "You should raise to 300.", "call", "all-in", "bet 6"), opened.scorer.tokenizer
        for prompt in ("pot 3", "pot 4 ; fold call raise", "raise 300"):
            question = opened.scorer.question(prompt, answers)
            trained = tokens_of(
                opened.scorer.ask.record(prompt, TEMPLATES["compact"].answer(read_answer("fold"))), tokenizer
            )
            assert (question.prompt, question.answers[0]) == trained
            for i, answer in enumerate(answers):
                alone = models.open_model(models.choice_of(f"x={model},chat={chat}"), 4) if i == 4 else opened
                fresh = type(alone.scorer)(**{**vars(alone.scorer), "tails": {}})
                assert fresh.question(prompt, [answer]) == (question.prompt, [question.answers[i]])
    assert opened.scorer.ask == AskSettings(chat=False) and opened.scorer.shapes == Shapes(rows=4)


def test_tokens_that_are_kept_are_not_those_of_another_way_to_ask(model):
    """A scorer that is replaced in part shares what is kept; a turn need not end as a text does."""
    plain = models.open_model(models.choice_of(f"x={model},chat=no"), 4).scorer
    chat = dataclasses.replace(plain, ask=AskSettings(chat=True))
    assert plain.tail("pot 3", "fold") and chat.tail("pot 3", "fold")
    assert set(chat.tails) == {(False, "fold"), (True, "fold")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name", "not of the form"),
        ("a=b,colour=red", "not of the form"),
        ("a=b,stage=last", "stage is one of"),
        ("a=b,chat=maybe", "chat is yes or no"),
    ],
)
def test_what_names_no_model_is_one_line(text, said):
    with pytest.raises(UserError, match=said):
        models.choice_of(text)


def test_names_that_are_taken_or_missing(model, tmp_path, capsys):
    for argv, said in (
        (["--models", f"call={model}"], "'call' is taken"),
        (["--models", f"x={tmp_path / 'none'}"], "no such file"),
        (["--heroes", "nobody"], "no bot or model 'nobody'"),
        (
            ["--heroes", "call", "tight", "--than", "thight"],
            "--than: 'thight' is no bot or model",
        ),
    ):
        assert run(tmp_path / "out", *argv)[0] == 2
        assert said in capsys.readouterr().err
    (tmp_path / "pipe" / "sft").mkdir(parents=True)
    assert run(tmp_path / "out", "--models", f"x={tmp_path / 'pipe'}")[0] == 2
    assert "without pipeline.json; add config=FILE" in capsys.readouterr().err


def test_widths_are_medians_over_lines():
    rows = [
        {"seats": 2, "mbb": {"hands": [0, 10], "duplicate": [0, w], "all-in": [0, 3], "controlled": [0, 2]}}
        for w in (4, 6, 9)
    ]
    (found,) = measure.widths(rows)
    assert found["duplicate"] == pytest.approx(0.6) and found["controlled"] == pytest.approx(0.2)
    assert np.isnan(measure.widths([{"seats": 3, "mbb": {key: [0, 0] for key in "abcd"}}])[0]["hands"])


def test_confusion_in_percent():
    rows = [{"predictor": "model", "confusion": [[3, 0, 1, 0, 0], [0, 2, 0, 0, 0], [0] * 5, [0] * 5, [0, 0, 0, 0, 1]]}]
    lines = confusion_text(rows).splitlines()
    assert lines[0] == "confusion in percent: model" and lines[1].split() == ["taken", *CLASSES, "of"]
    assert [line.split() for line in lines[2:]] == [
        ["fold", "75.0", "0.0", "25.0", "0.0", "0.0", "4"],
        ["check", "0.0", "100.0", "0.0", "0.0", "0.0", "2"],
        ["raise", "0.0", "0.0", "0.0", "0.0", "100.0", "1"],
    ]
    assert tables({"agreement": []}) == ""
