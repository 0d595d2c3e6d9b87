import gzip
import json
import pathlib
import re

import pytest

from lqlm.errors import UserError
from lqlm.tasks.base import Score, score
from lqlm.tasks.gsm8k import Gsm8kConfig, gsm8k_task, read_jsonl, reference_answer

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
real = pytest.mark.skipif(not DATA.exists(), reason="the GSM8K files are not in ../shared/data/gsm8k")
GOOD = {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4\n#### 4"}


def write(path, *records):
    lines = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


def real_task():
    return gsm8k_task(Gsm8kConfig(train_path=str(DATA / "train.jsonl.gz"), test_path=str(DATA / "test.jsonl.gz")))


@real
def test_every_reference_solution_of_the_real_files_scores_one():
    task = real_task()
    assert (len(task.train), len(task.heldout)) == (7473, 1319)
    for split, items in (("train", task.train), ("test", task.heldout)):
        with gzip.open(DATA / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            solutions = [json.loads(line)["answer"] for line in lines]
        assert all(score(task, text, item) == Score(1.0, 1.0) for text, item in zip(solutions, items, strict=True))


@real
def test_other_peoples_solutions_are_judged_as_they_were():
    """The authors' own labels of 1,319 model solutions, which end in "A: N"."""
    task = real_task()
    with gzip.open(DATA / "example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line)["175b_verification"] for line in lines]
    ours = [score(task, r["solution"], item).lenient == 1.0 for r, item in zip(records, task.heldout, strict=True)]
    assert sum(mine != r["is_correct"] for mine, r in zip(ours, records, strict=True)) <= 3


@real
def test_a_wrong_number_scores_nothing():
    task = real_task()
    assert score(task, "#### 19", task.heldout[0]) == Score(0.0, 0.0)  # the eggs: 18
    assert score(task, "It is $18.00 a day.", task.heldout[0]) == Score(0.0, 1.0)
    assert score(task, "#### 18", task.heldout[0]) == Score(1.0, 1.0)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_small_files(tmp_path, suffix):
    train = write(tmp_path / f"train{suffix}", GOOD, "", {"question": "Änd?", "answer": "#### 1,080", "extra": 1})
    test = write(tmp_path / f"test{suffix}", {"question": "Three?", "answer": "#### -3"})
    task = gsm8k_task(Gsm8kConfig(train_path=train, test_path=test))
    assert [(i.question, i.answer, i.id) for i in task.train] == [
        ("Two and two?", "4", "gsm8k/train/0"),
        ("Änd?", "1080", "gsm8k/train/2"),
    ]
    assert task.heldout[0].answer == "-3"
    assert "####" in task.messages(task.heldout[0])[0]["content"]
    assert len(gsm8k_task(Gsm8kConfig(train_path=train, test_path=test, train=1)).train) == 1


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: not a record"),
        ({"question": "q"}, 'line 2: no text in the field "answer" (fields: question)'),
        ({"answer": "#### 1"}, 'line 2: no text in the field "question"'),
        ({"question": "q", "answer": 4}, 'no text in the field "answer"'),
        ({"question": "q", "answer": "4"}, 'line 2: the field "answer" has no number after "####"'),
        ({"question": "q", "answer": "#### four"}, 'has no number after "####"'),
    ],
)
def test_bad_lines(tmp_path, record, words):
    path = write(tmp_path / "bad.jsonl", GOOD, record)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_jsonl(path, "train")
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_jsonl(str(tmp_path / "none.jsonl"), "train")
    with pytest.raises(UserError, match="no problems"):
        read_jsonl(write(tmp_path / "empty.jsonl"), "train")
    with pytest.raises(UserError, match="cannot be read"):
        read_jsonl(str(tmp_path), "train")
    whole = pathlib.Path(write(tmp_path / "whole.jsonl.gz", *[{**GOOD, "n": i} for i in range(2000)])).read_bytes()
    cut, noise, latin = tmp_path / "cut.jsonl.gz", tmp_path / "noise.jsonl.gz", tmp_path / "latin.jsonl"
    cut.write_bytes(whole[: len(whole) // 2])
    noise.write_bytes(b"not gzip")
    latin.write_bytes('{"question": "é"}'.encode("latin-1"))
    for path in (cut, noise, latin):
        with pytest.raises(UserError, match="cannot be read"):
            read_jsonl(str(path), "train")


def test_one_path_is_not_enough():
    with pytest.raises(UserError, match="only one of"):
        Gsm8kConfig(train_path="x.jsonl")
    with pytest.raises(UserError, match="train=0"):
        Gsm8kConfig(train=0)


def test_the_datasets_library(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return [{"question": f"{split}?", "answer": "#### 7"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = gsm8k_task(Gsm8kConfig())
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert (task.train[0].question, task.heldout[0].id) == ("train?", "gsm8k/test/0")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no\nroute")))
    with pytest.raises(
        UserError, match=r"ConnectionError: no route\); check the name and the network, or give train_path"
    ):
        gsm8k_task(Gsm8kConfig())


def test_reference_answer():
    assert reference_answer("#### 1 and #### 1,234") == "1234"
    assert reference_answer("1234") is None
