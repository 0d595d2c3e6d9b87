import gzip
import itertools
import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.datasets import DataSource, Record, epochs, records, shuffled

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = [{"text": f"row {i} ä"} for i in range(11)]


def put(path, text):
    raw = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def source(tmp_path, kind, **changes):
    """The same eleven records from everywhere."""
    if kind in ("file.jsonl", "file.jsonl.gz", "file.ndjson"):
        return DataSource(put(tmp_path / kind, lines()), **changes)
    if kind in ("file.json", "file.json.gz"):
        return DataSource(put(tmp_path / kind, json.dumps(ROWS)), **changes)
    if kind in ("file.txt", "file.txt.gz"):
        text = "\n \n\n".join(row["text"] for row in ROWS) + "\n"
        return DataSource(put(tmp_path / kind, text), documents="paragraphs", **changes)
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    put(folder / "train.jsonl", lines())
    if kind == "directory":
        return DataSource(str(folder), **changes)
    return DataSource("json", data_files=(str(folder / "train.jsonl"),), **changes)


KINDS = ["file.jsonl", "file.jsonl.gz", "file.ndjson", "file.json", "file.json.gz", "file.txt", "file.txt.gz"]
KINDS += ["directory", "builder"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_records_and_can_be_resumed_anywhere(tmp_path, kind):
    plain, mixed = source(tmp_path, kind), source(tmp_path, kind, shuffle_buffer=4, seed=3)
    assert [dict(record.fields) for record in records(plain)] == ROWS
    for each in (plain, mixed):
        whole = list(records(each))
        assert len({record.where for record in whole}) == len(ROWS)
        for start in (1, 5, 10, 11, 12):
            assert list(records(each, start)) == whole[start:]
    endless = list(itertools.islice(epochs(mixed), 40))
    for start in (1, 10, 11, 12, 30):
        assert list(itertools.islice(epochs(mixed, start), 40 - start)) == endless[start:]


def test_epochs_of_a_shuffled_source_differ_in_order_only(tmp_path):
    endless = list(itertools.islice(epochs(source(tmp_path, "file.jsonl", shuffle_buffer=5, seed=1)), 33))
    passes = [endless[i : i + 11] for i in (0, 11, 22)]
    assert passes[0] != passes[1] != passes[2] and sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    other = list(records(source(tmp_path, "file.jsonl", shuffle_buffer=5, seed=2)))
    assert other != passes[0]
    plain = list(itertools.islice(epochs(source(tmp_path, "file.jsonl")), 22))
    assert plain[:11] == plain[11:] == list(records(source(tmp_path, "file.jsonl")))


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 5))
def test_shuffling_is_a_permutation_that_moves_items_forward_less_than_a_buffer(n, buffer, seed):
    items = [Record(str(i), {}) for i in range(n)]
    order = [int(record.where) for record in shuffled(items, buffer, seed)]
    assert sorted(order) == list(range(n))
    assert all(item < place + buffer for place, item in enumerate(order))
    if buffer == 1:
        assert order == list(range(n))


def test_shuffling_is_uniform_over_its_buffer():
    first = [next(shuffled([Record(str(i), {}) for i in range(4)], 4, seed)).where for seed in range(400)]
    assert all(60 < first.count(str(i)) < 140 for i in range(4))


def test_documents_of_a_text_file(tmp_path):
    path = put(tmp_path / "a.txt", "one\ntwo\n\n \nthree\n\n")
    assert list(records(DataSource(path))) == [(path, {"text": "one\ntwo\n\n \nthree\n\n"})]
    paragraphs = list(records(DataSource(path, documents="paragraphs")))
    assert paragraphs == [(f"{path}, line 1", {"text": "one\ntwo"}), (f"{path}, line 5", {"text": "three"})]


def test_blank_lines_between_records_are_passed_over_but_counted(tmp_path):
    path = put(tmp_path / "a.jsonl", '\n{"a": 1}\n\n{"a": 2}')
    assert [record.where for record in records(DataSource(path))] == [f"{path}, line 2", f"{path}, line 4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.jsonl", None, r"no\.jsonl: no such file"),
        ("no.txt.gz", None, r"no\.txt\.gz: no such file"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl, line 2: not JSON \(.* column"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2: list instead of a record"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: (JSON nested|not JSON)"),
        ("a.jsonl", "", r"a\.jsonl: no records"),
        ("a.jsonl.gz", "\n \n", r"a\.jsonl\.gz: no records"),
        ("a.json", "[{},\n2, x]", r"a\.json: not JSON \(.*line 2, column 4"),
        ("a.json", '[{"a": 1}, 2]', r"a\.json, record 1: int instead"),
        ("a.json", '{"a": 1}', r"a\.json: not a list"),
        ("a.json", "", r"a\.json: no records"),
        ("a.json", "[]", r"a\.json: no records"),
        ("a.txt", " \n", r"a\.txt: no records"),
        ("a.txt", b"\xff\xfe", r"a\.txt: not UTF-8"),
        ("a.csv", "a,b", r"a\.csv: unknown kind of file"),
        ("absent", None, r"absent: no such file"),
    ],
)
@pytest.mark.parametrize("buffer", [0, 3])
def test_bad_files(tmp_path, name, content, message, buffer):
    path = str(tmp_path / name) if content is None else put(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as raised:
        list(records(DataSource(path, shuffle_buffer=buffer)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: b"plain", lambda raw: raw[:20] + b"\0" * 20])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(lines(ROWS * 50).encode())))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read"):
        list(records(DataSource(str(path))))


def test_bad_data_sets(tmp_path):
    (tmp_path / "empty").mkdir()
    good = source(tmp_path, "builder")
    for bad in (
        DataSource(str(tmp_path / "empty")),
        DataSource(good.path, split="nosuch", data_files=good.data_files),
        DataSource("json", data_files=(str(tmp_path / "absent.jsonl"),)),
    ):
        with pytest.raises(UserError, match=re.escape(f"data set {bad.path!r}, split {bad.split!r}: cannot")) as raised:
            list(records(bad))
        assert "\n" not in str(raised.value)


def test_bad_settings():
    with pytest.raises(UserError, match="documents='lines'"):
        DataSource("a.txt", documents="lines")
    with pytest.raises(UserError, match="shuffle_buffer=-1"):
        DataSource("a.txt", shuffle_buffer=-1)


def test_a_record_that_is_not_wanted_is_not_read(tmp_path):
    path = put(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\nbroken')
    assert [r.fields["a"] for r in itertools.islice(records(DataSource(path)), 2)] == [1, 2]


@pytest.mark.skipif(not DATA.exists(), reason="no real data in ../shared/data")
def test_real_files():
    def read(name, **changes):
        return list(records(DataSource(str(DATA / name), **changes)))

    seeds = read("self_instruct/seed_tasks.jsonl.gz")
    assert len(seeds) == 175 and {"instruction", "instances"} <= seeds[0].fields.keys()
    assert len(read("self_instruct/user_oriented_instructions.jsonl.gz")) == 252
    (play,) = read("tinyshakespeare/input.txt.gz")
    assert len(play.fields["text"]) == 1_115_394
    speeches = read("tinyshakespeare/input.txt.gz", documents="paragraphs")
    assert speeches[0].fields["text"] == "First Citizen:\nBefore we proceed any further, hear me speak."
    assert len(speeches) == play.fields["text"].strip("\n").count("\n\n") + 1 == 7222
    paragraphs = read("wikitext2/valid.txt.gz", documents="paragraphs")
    assert len(paragraphs) > 1000 and paragraphs[0].fields["text"].strip().startswith("=")
