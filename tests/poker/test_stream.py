import gzip
import io
import pathlib
import tarfile
import tracemalloc

import pytest

from lqlm.errors import UserError
from lqlm.poker.pokerstars import parse
from lqlm.poker.stream import Read, Skipped, Tally, files_of, read_hands, reason_kind
from tests.poker import texts
from tests.poker.test_phh import PLAIN

ALL = [*texts.EVERY.values()]


def hands(*sources):
    return list(read_hands(sources))


@pytest.mark.parametrize("between", ["\n\n\n", "", "\n"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_hands_of_a_file(tmp_path, between, ends):
    path = tmp_path / "log.txt"
    path.write_bytes(("\ufeff" + between.join(ALL)).replace("\n", ends).encode())
    found = hands(path)
    assert [item.hand for item in found] == [parse(text) for text in ALL]
    lines = between.join(ALL).splitlines()
    assert all(lines[item.line - 1].startswith("PokerStars") for item in found)


def test_archives_folders_and_globs(tmp_path):
    (tmp_path / "a").mkdir()
    with gzip.open(tmp_path / "a" / "x.txt.gz", "wt", encoding="utf-8") as file:
        file.write(ALL[0])
    with tarfile.open(tmp_path / "a" / "y.tar.gz", "w:gz") as archive:
        for name, text in (("30/0.phh", PLAIN), ("z.txt", ALL[1]), ("README", "no hand")):
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "b.phhs").write_text(f"[1]\n{PLAIN}\n[2]\n{PLAIN.replace('hand = 7', 'hand = 8')}")
    found = hands(tmp_path)
    assert all(isinstance(item, Read) for item in found)
    assert [item.hand.hand_id for item in found] == ["1", "7", "2", "7", "8"]
    assert found[1].hand.table.name == "30" and found[1].file.endswith("y.tar.gz:30/0.phh")
    assert found[1].hand.session == "PHH 30"
    assert len(files_of([tmp_path / "*" / "*.gz", tmp_path / "a"])) == 2
    with pytest.raises(UserError, match="no hand histories"):
        hands(tmp_path / "*.nothing")


def test_a_bad_hand_is_named_and_its_neighbours_are_read(tmp_path):
    path = tmp_path / "log.txt"
    bad = texts.CASH.replace("Ada: bets $10", "Ada: bets ten")
    path.write_text("some words\n\n" + ALL[2] + "\n\n" + bad + "\n\n" + ALL[3])
    before, first, skipped, last = hands(path)
    assert isinstance(before, Skipped) and before.line == 1 and "no header of a hand" in before.reason
    assert isinstance(first, Read) and isinstance(last, Read)
    assert skipped.file == str(path) and "ten" in skipped.reason
    assert path.read_text().splitlines()[skipped.line - 1] == "Ada: bets ten"
    tally = Tally()
    for item in (before, first, skipped, last):
        tally.add(item)
    assert tally.read == 2 and sum(tally.skipped.values()) == 2


def test_old_logs_are_read_as_windows_1252(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(texts.CASH.replace("Ada", "Jos\xe9").encode("latin-1"))
    assert hands(path)[0].hand.seats[0].player == "Jos\xe9"


def test_a_damaged_file_is_read_up_to_there_and_the_next_one_comes(tmp_path):
    whole = gzip.compress((texts.CASH + "\n\n\n").encode() * 200)
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.txt.gz").write_bytes(b"no gzip")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for name in ("1.txt", "2.txt"):
            data = tarfile.TarInfo(name)
            data.size = len(texts.CASH.encode())
            archive.addfile(data, io.BytesIO(texts.CASH.encode()))
    size = (tmp_path / "c.tar").read_bytes().rindex(b"*** SUMMARY")  # of the second member
    (tmp_path / "c.tar").write_bytes((tmp_path / "c.tar").read_bytes()[:size])
    (tmp_path / "d.txt").write_text(texts.CASH)
    found = hands(tmp_path)
    skipped = [item for item in found if isinstance(item, Skipped)]
    assert [pathlib.Path(s.file.split(":")[0]).name for s in skipped] == ["a.txt.gz", "b.txt.gz", "c.tar"]
    assert all("damaged" in s.reason for s in skipped) and skipped[1].line == 1
    read = [item.file.split("/")[-1].split(":")[0] for item in found if isinstance(item, Read)]
    assert 0 < read.count("a.txt.gz") < 200 and read.count("c.tar") == 1 and read.count("d.txt") == 1


FOREIGN = {
    "a damaged header": texts.CASH.replace("PokerStars Hand", "PokerStars Hnd"),
    "another site": "Full Tilt Poker Game #1\nSeat 1: Ann\n" + "words\n" * 20,
    "thousands of lines": "x\n" * 5000,
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_stands_between_two_hands_costs_neither(tmp_path, what):
    path = tmp_path / "log.txt"
    path.write_text("\n\n\n".join([texts.CASH.rstrip(), FOREIGN[what].rstrip(), texts.CASH]))
    found = hands(path)
    assert [type(item) for item in found] == [Read, Skipped, Read]
    assert found[0].hand == found[2].hand
    first = path.read_text().splitlines().index(FOREIGN[what].splitlines()[0]) + 1
    assert found[1].line >= first and ("header" in found[1].reason)


def test_a_summary_may_have_empty_lines(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(texts.CASH.replace("\n", "\n\n") * 2)
    assert [type(item) for item in hands(path)] == [Read, Read]


def test_text_without_hands_is_not_kept_in_memory(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("x\n" * 300_000)
    tracemalloc.start()
    (skipped,) = hands(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than" in skipped.reason and peak < 3e6


def test_reasons_are_counted_by_kind():
    assert reason_kind("'Bo: frets $10' is 12 of 5") == reason_kind("'x' is 1 of 2.5")
