"""What each feature adds: a table of tiny models and trees, made once; what logs tell is what a model is asked."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.poker import agent, features, measure
from experiments.poker.__main__ import dispatch
from experiments.poker.agent import AgentSettings, open_player
from experiments.poker.ask import AskSettings
from experiments.poker.bot_logs import write_logs
from experiments.poker.data_settings import LogSettings
from experiments.settings import ModelSettings
from lqlm.poker.policy import Shapes
from lqlm.poker.told import NAMES
from tests.experiments.tiny_model import save_model

CONFIG = """
from experiments.configdict import as_config
from experiments.poker.agent import AgentSettings, open_player
from experiments.poker.ask import AskSettings
from experiments.poker.pipeline_settings import EvaluateSettings, PipelineExperiment, TrainSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.poker.policy import Shapes


def get_config():
    return as_config(
        PipelineExperiment(
            stages=("logs", "hands", "selected", "prompts", "records", "sft", "evaluate"),
            ask=AskSettings(template="terse", chat=False, round_up=False),
            sft=TrainSettings(
                model=ScratchSettings(vocab_size=300, layers=1, width=32, ffn=32, max_positions=192),
                heldout=4,
                max_length=160,
                run=RunSettings(steps=2, rows=2, eval_every=0, eval_batch=4, checkpoint_every=2, samples=0),
            ),
            evaluate=EvaluateSettings(samples=8, rounds=2, shapes=Shapes(rows=8, prompt=64, answers=12, tokens=12)),
        )
    )
"""


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    write_logs(LogSettings(sessions=12, hands=2, seats=3), 0, folder / "logs")
    assert dispatch(["parse", str(folder / "logs"), "--out", str(folder / "hands")]) == 0
    select = ["select", str(folder / "hands"), "--out", str(folder / "selected"), "--min-hands", "1"]
    assert dispatch([*select, "--train", "0.5", "--valid", "0.25"]) == 0
    (folder / "config.py").write_text(CONFIG, encoding="utf-8")
    return folder / "selected"


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_table_is_made_once(selected, tmp_path, monkeypatch, capsys):
    out, config = tmp_path / "out", str(selected.parent / "config.py")
    command = ["features", str(selected), "--out", str(out), "--config", config, "--sets", "none", "equity+spot"]
    assert dispatch(command) == 0
    found = json.loads((out / "features.json").read_text())
    names = [row["predictor"] for row in found if "power" not in row]
    assert names[-2:] == ["model: none", "model: equity + spot"] and names[0] == "trees: public" and len(found) == 10
    plain, corrected = found[-4], found[-3]
    assert corrected["of"] == plain["predictor"] and corrected["predictor"].strip().startswith("prior^")
    assert found[-2]["tokens"] > plain["tokens"] > 5 and plain["steps"] == 2
    assert all(row["macro F1"][1] <= row["macro F1"][0] <= row["macro F1"][2] for row in found)
    table = (out / "table.txt").read_text()
    assert "model: equity + spot" in table and table.count("prior^") == 5
    monkeypatch.setattr(features, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(features.agree, "boosted_trees", lambda *_: pytest.fail("grown again"))
    assert dispatch(command) == 0 and json.loads((out / "features.json").read_text()) == found
    capsys.readouterr()


def test_a_set_that_rows_cannot_hold_is_refused_and_held_by_longer_ones(selected, tmp_path, capsys):
    command = ["features", str(selected), "--out", str(tmp_path), "--config", str(selected.parent / "config.py")]
    assert dispatch([*command, "--sets", "equity", "--length", "20"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: equity: ") and "max_length is 20; raise it" in said
    assert dispatch([*command, "--sets", "equity", "--length", "150"]) == 0
    assert json.loads((tmp_path / "equity" / "sft" / "config.json").read_text())["text"]["max_length"] == 150
    capsys.readouterr()


def test_prompts_of_logs_are_what_a_model_is_asked(selected, tmp_path):
    """The command's prompts and those of predictions, every feature among them, habits of the hands before too."""
    ask = AskSettings(template="compact", features=NAMES)
    argv = ["prompts", str(selected), "--out", str(tmp_path / "p"), "--template", "compact", "--features", *NAMES]
    assert dispatch(argv) == 0
    asked = [ask.prompt(state) for _, state, _ in agent._decisions(measure.known_hands(selected / "train.jsonl"), ask)]
    assert asked == [row["prompt"] for row in rows(tmp_path / "p" / "train.jsonl")]
    assert any("; spot" in prompt and "eq " in prompt and "odds " in prompt for prompt in asked)
    assert any(prompt.split("\n")[2].count(";") == 1 for prompt in asked)  # habits


def test_the_correction_is_chosen_on_valid_decisions_and_judged_on_others(selected, tmp_path, monkeypatch):
    held = features.Held(*(measure.table_of(selected / f"{part}.jsonl", tmp_path, 4, 0) for part in features.PARTS))
    guess = [np.full((len(table.labels), 5), 0.2) for table in (held.valid, held.test)]
    seen = []
    monkeypatch.setattr(features.agree, "best_power", lambda *given: seen.append(given) or 0.25)
    plain, corrected = features.lines("guess", *guess, held, 0)
    ((chosen_from, table, shares),) = seen
    assert chosen_from is guess[0] and table is held.valid
    np.testing.assert_array_equal(shares, features.agree.frequencies(held.train))
    assert plain["decisions"] == len(held.test.labels) and corrected["power"] == 0.25
    assert "sizing error" not in plain


def test_words_are_what_the_answers_begin_with(selected, tmp_path):
    """Held against the whole answers: a word's share is that of its tokens, scored without an end by hand."""
    model = save_model(tmp_path / "model", max_position_embeddings=512)
    hands = list(measure.known_hands(selected / "test.jsonl"))[:2]
    settings = AgentSettings(ModelSettings(source=str(model)), ask=AskSettings(template="terse"), shapes=Shapes(rows=2))
    player = open_player(settings)
    found, (whole, _) = player.words(hands, rows=2), player.predictions(hands)
    assert found.shape == whole.shape and ((found > 0) == (whole > 0)).all()
    np.testing.assert_allclose(found.sum(1), 1)
    state = next(state for _, state, _ in agent._decisions(hands, settings.ask))
    for template, chat, said in (("terse", False, "fold"), ("paper", True, "You should fold")):
        asking = dataclasses.replace(settings, ask=AskSettings(template=template, chat=chat))
        other = dataclasses.replace(player, settings=asking, scorer=dataclasses.replace(player.scorer, ask=asking.ask))
        (answer,) = other._words_of(state, ("fold",)).answers
        assert player.model.tokenizer.decode(answer) == said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["SELECTED", "--sets", "luck"], "'luck' is not known"),
        (["SELECTED/nowhere", "--sets", "none"], "name a folder that `select` has finished"),
    ],
)
def test_bad_input_is_one_line(selected, tmp_path, argv, message, capsys):
    config = str(selected.parent / "config.py")
    filled = [word.replace("SELECTED", str(selected)) for word in argv]
    assert dispatch(["features", *filled, "--out", str(tmp_path / "x"), "--config", config]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
