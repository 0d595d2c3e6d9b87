"""Decisions as problems: the prompts and tokens that supervised fine-tuning saw, from hands that can be played on."""

import dataclasses
import itertools
import json
import pathlib
import shutil
from collections import Counter

import pytest

from experiments.poker import prompts
from experiments.poker.ask import AskSettings, tokens_of
from lqlm.errors import UserError
from lqlm.io.bpe import train_bpe
from lqlm.io.tokenizer import tokenizer_from_directory
from lqlm.poker.cards import text
from lqlm.poker.codec import from_json
from lqlm.poker.record import known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import word_of
from lqlm.tasks.base import Score, score
from lqlm.tasks.poker import PokerConfig, PokerItem, big_blinds, is_legal, poker_task
from lqlm.tasks.poker_source import Choice, choose
from tests.experiments.poker_hands import select_hands


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    return select_hands(tmp_path_factory.mktemp("poker"), seats=3)


@pytest.fixture
def config(selected):
    return PokerConfig(
        source=str(selected / "train.jsonl"), heldout_source=str(selected / "valid.jsonl"), heldout=6, playouts=1
    )


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(selected, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    train_bpe((json.dumps(row) for row in read(selected / "train.jsonl")), 400, folder)
    return tokenizer_from_directory(folder)


@pytest.mark.parametrize(
    ("template", "features"), [("compact", ()), ("paper", ("pot-odds",)), ("terse", ("equity", "class"))]
)
def test_questions_and_tokens_are_those_of_fine_tuning(selected, config, tokenizer, tmp_path, template, features):
    told = ["--features", *features]
    prompts.main([str(selected), "--out", str(tmp_path / "prompts"), "--template", template, *told])
    written = {}
    rows = read(tmp_path / "prompts/train.jsonl")
    for number, row in enumerate(read(selected / "train.jsonl"), 1):
        hand = from_json(row["hand"]).hand_id
        of_hand = [each for each in rows if each["hand"] == hand]
        written |= {f"poker/train/{number}/{index}": each for index, each in enumerate(of_hand)}
    ask = AskSettings(template, chat=True, features=features)
    task = poker_task(dataclasses.replace(config, template=template, features=features, limit=0))
    assert task.system is None and len(task.train) > 40
    for item in task.train:
        row = written[item.id]
        assert (item.question, item.answer) == (row["prompt"], row["completion"])
        asked, answer = tokens_of(ask.record(row["prompt"], row["completion"]), tokenizer)
        assert tokenizer.chat(task.messages(item)) == asked and tokenizer.decode(answer).strip() == item.answer
        assert not any(held in item.question for held in _cards_of_others(item))


def _cards_of_others(item):
    hand = from_json(json.loads(item.place.hand))
    decision = replay(hand).decisions[item.place.number]
    return [text(held, "") for seat, held in known_cards(hand).items() if seat != decision.seat]


def test_logs_of_showdowns_only_are_asked_of_the_seats_whose_cards_they_tell(selected, config, tmp_path):
    whole, rows = poker_task(dataclasses.replace(config, limit=0)), read(selected / "train.jsonl")
    told = {}
    for number, row in enumerate(rows, 1):
        told[number] = row["hand"]["holes"][0]["seat"]
        row["hand"] |= {"holes": row["hand"]["holes"][:1], "results": []}
    own = dataclasses.replace(config, source=write(tmp_path / "own.jsonl", rows), limit=0)
    with pytest.raises(UserError, match=r"no decision of .* hands left out, the first at line 1: .* are not known"):
        poker_task(own)
    with pytest.raises(UserError, match="cards='own' cannot be used; what others held is not known; set redraw"):
        dataclasses.replace(own, cards="own")
    task = poker_task(dataclasses.replace(own, cards="own", redraw=True))
    asked = {item.id: item.question for item in task.train}
    assert asked
    for item in whole.train:
        number, index = map(int, item.id.split("/")[2:])
        decision = replay(from_json(json.loads(item.place.hand))).decisions[index]
        assert asked.get(item.id) == (item.question if decision.seat == told[number] else None)
    assert big_blinds("fold", task.train[0]) == 0 and is_legal("all-in", task.train[0]) in (0, 1)


def test_items_are_decisions_of_their_own_and_held_out_prompts_are_new(config):
    task = poker_task(dataclasses.replace(config, limit=30))
    assert len(task.train) <= 30 and len(task.heldout) == 6 and all(isinstance(i, PokerItem) for i in task.train)
    items = [*task.train, *task.heldout]
    assert len({item.id for item in items}) == len(items)
    assert not {item.question for item in task.train} & {item.question for item in task.heldout}
    again, other = poker_task(dataclasses.replace(config, limit=30)), poker_task(dataclasses.replace(config, seed=1))
    assert again.train == task.train and again.heldout == task.heldout and other.heldout != task.heldout


def test_the_limit_takes_a_spread_of_all_and_more_of_it_takes_more(config):
    few, more, every = (choose(config.source, Choice(limit=limit)) for limit in (5, 20, 0))
    assert more[:5] == few and every[:20] == more and len({found.line for found in more}) > 5


@pytest.mark.parametrize("balance", ["streets", "words"])
def test_shares_are_equal(config, balance):
    def classes(limit):
        for _, _, place in choose(config.source, Choice(limit=limit, balance=balance)):
            decision = replay(from_json(json.loads(place.hand))).decisions[place.number]
            yield decision.street if balance == "streets" else word_of(decision.act)

    everything = Counter(classes(10**6))
    counts = Counter(classes(0))
    assert set(counts) == set(everything) and set(counts.values()) == {min(everything.values())}
    some = Counter(classes(8))
    assert some.total() == 8 and max(some.values()) - min(some.values()) <= 1


def test_only_decisions_of_the_streets_asked_for(config):
    task = poker_task(dataclasses.replace(config, streets=("turn", "river")))
    for item in [*task.train, *task.heldout]:
        decision = replay(from_json(json.loads(item.place.hand))).decisions[item.place.number]
        assert decision.street >= 2


def of(task, word):
    return next(item for item in task.train if item.answer.startswith(word))


def test_the_word_earns_the_lenient_score_and_the_amount_the_strict_one(config):
    task = poker_task(dataclasses.replace(config, limit=0))
    for item in task.train:
        assert score(task, item.answer, item) == Score(1.0, 1.0)
        assert score(task, "I would think about it", item) == Score(0.0, 0.0)
    item = next(each for each in task.train if each.answer.startswith(("raise", "bet")))
    word = item.answer.split()[0]
    assert score(task, f"{word} 123", item) == Score(0.0, 1.0)
    assert score(task, "all-in", item) == Score(0.0, 1.0) and score(task, "fold", item) == Score(0.0, 0.0)
    item = of(task, "fold")
    assert score(task, " You should fold. ", item) == Score(1.0, 1.0)
    assert score(task, "all-in", item) == Score(0.0, 0.0) and score(task, "call", item) == Score(0.0, 0.0)


def test_the_measures_of_held_out_answers(config):
    task = poker_task(config)
    assert task.measures == {"chips": big_blinds, "legal": is_legal}
    item = of(task, "fold")
    assert (big_blinds("fold", item), is_legal("fold", item), is_legal("check", item)) == (0.0, 1.0, 0.0)


def test_values_are_a_function_of_the_seed_and_differ_between_decisions(config):
    task = poker_task(config)
    other = poker_task(dataclasses.replace(config, seed=1))
    theirs = {item.id: item for item in other.train}
    pairs = [(item, theirs[item.id]) for item in itertools.islice(task.train, 40) if item.id in theirs]
    values = [[big_blinds("raise 600", item) for item in pair] for pair in pairs]
    assert any(mine != changed for mine, changed in values)
    assert [big_blinds("raise 600", mine) for mine, _ in pairs] == [mine for mine, _ in values]


def test_values_do_not_depend_on_pseudonyms(config, tmp_path):
    """Two selections of the same logs have other names: rewards are the same."""
    again = tmp_path / "train.jsonl"
    renamed = pathlib.Path(config.source).read_text()
    for name in {seat["player"] for row in read(pathlib.Path(config.source)) for seat in row["hand"]["seats"]}:
        renamed = renamed.replace(name, f"another-{name}")
    again.write_text(renamed)
    tasks = poker_task(config), poker_task(dataclasses.replace(config, source=str(again)))
    mine, others = ({item.id: big_blinds("raise 600", item) for item in task.train[:40]} for task in tasks)
    assert len(mine) > 20 and mine == others


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": -1}, ["limit=-1", "0 or more"]),
        ({"playouts": 0}, ["playouts=0", "1 or more"]),
        ({"scale": 0}, ["scale=0", "more than 0"]),
        ({"clip": -1}, ["clip=-1"]),
        ({"template": "prose"}, ["template='prose'", "paper, compact, terse"]),
        ({"features": ("habits",)}, ["'habits'", "leave it out"]),
        ({"features": ("luck",)}, ["luck"]),
        ({"streets": ()}, ["streets=()", "preflop"]),
        ({"streets": ("showdown",)}, ["showdown", "preflop"]),
        ({"field": ("nobody",)}, ["nobody", "tight"]),
        ({"player": "nobody"}, ["player='nobody'", "tight"]),
        ({"source": "absent.jsonl"}, ["absent.jsonl", "select"]),
        ({"heldout_source": ""}, ["''", "select"]),
    ],
)
def test_wrong_settings_are_one_line(config, changes, words):
    with pytest.raises(UserError) as error:
        poker_task(dataclasses.replace(config, **changes))
    said = str(error.value)
    assert all(word in said for word in words) and "\n" not in said


def without_cards(row):
    hand = row["hand"] | {"holes": row["hand"]["holes"][:1], "results": []}
    return row | {"hand": hand}


def test_hands_that_cannot_be_played_on_are_left_out_and_no_decision_left_is_an_error(selected, config, tmp_path):
    rows = read(selected / "train.jsonl")
    some = write(tmp_path / "some.jsonl", [without_cards(rows[0]), *rows[1:]])
    task = poker_task(dataclasses.replace(config, source=some, limit=0))
    assert {item.id.split("/")[2] for item in task.train} == {str(n) for n in range(2, len(rows) + 1)}
    none = write(tmp_path / "none.jsonl", map(without_cards, rows))
    with pytest.raises(UserError, match=rf"no decision of .* {len(rows)} hands left out.*line 1: .*not known") as error:
        poker_task(dataclasses.replace(config, source=none))
    assert "\n" not in str(error.value)
    shutil.copy(selected / "valid.jsonl", tmp_path / "same.jsonl")
    with pytest.raises(UserError, match=r"all decisions of .* are held out"):
        poker_task(dataclasses.replace(config, source=str(tmp_path / "same.jsonl"), heldout=0))


@pytest.mark.parametrize("damage", ["acts", "no hand", "no object", "no JSON"])
def test_a_damaged_row_is_named_with_its_line(selected, config, tmp_path, damage):
    rows = read(selected / "train.jsonl")
    hand = rows[1]["hand"]
    wrong = {
        "acts": rows[1] | {"hand": hand | {"streets": [hand["streets"][0][1:], *hand["streets"][1:]]}},
        "no hand": {"session": "1"},
        "no object": [1],
        "no JSON": None,
    }[damage]
    path = tmp_path / "damaged.jsonl"
    path.write_text("\n".join([json.dumps(rows[0]), json.dumps(wrong) if wrong is not None else "{", ""]))
    with pytest.raises(UserError, match=r"damaged.jsonl, line 2: .*select") as error:
        poker_task(dataclasses.replace(config, source=str(path)))
    assert "\n" not in str(error.value)
