"""The stages of experiments.poker on small logs: files in, files out, killed and restarted."""

import gc
import itertools
import json
import tracemalloc

import pytest

from experiments.poker import files, parse, select
from experiments.poker.__main__ import COMMANDS, dispatch
from lqlm.poker.pokerstars import render
from lqlm.poker.prompts import read_compact, read_prompt
from tests.poker import texts
from tests.poker.random_hands import random_hand


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(3):
        hands = [render(random_hand(seed)) for seed in range(10 * number, 10 * number + 10)]
        (folder / f"{number}.txt").write_text("\n\n".join(hands), encoding="utf-8")
    bad = texts.CASH.replace("Ada: bets $10", "Ada: frets")
    (folder / "9.txt").write_text(texts.CASH + "\n\n" + bad + "\n\n" + texts.TWICE, encoding="utf-8")
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*argv):
    assert dispatch(list(map(str, argv))) == 0


def stages(logs, out, *prompts):
    run("parse", logs, "--out", out / "hands")
    run("select", out / "hands", "--out", out / "selected", "--min-hands", "1")
    run("prompts", out / "selected", "--out", out / "prompts", *prompts)
    return out


def test_from_logs_to_prompts(logs, tmp_path, capsys):
    out = stages(logs, tmp_path, "--features", "pot-odds", "habits", "--style", "tight")
    summary = json.loads((out / "hands" / "summary.json").read_text())
    assert (summary["files"], summary["read"], summary["skipped"]) == (4, 32, 1)
    (skipped,) = rows(out / "hands" / "skipped.jsonl")
    text = (logs / "9.txt").read_text(encoding="utf-8").splitlines()
    assert skipped["file"].endswith("9.txt") and text[skipped["line"] - 1] == "Ada: frets"
    parts = {part: rows(out / "selected" / f"{part}.jsonl") for part in ("train", "valid", "test")}
    sessions = [{row["session"] for row in part} for part in parts.values()]
    assert not (sessions[0] & sessions[1] or sessions[0] & sessions[2] or sessions[1] & sessions[2])
    made = [row for part in parts for row in rows(out / "prompts" / f"{part}.jsonl")]
    assert made and all(read_prompt(row["prompt"]).features.style == "tight" for row in made)
    assert {row["completion"].split()[2].strip(".") for row in made} >= {"fold", "call", "check"}
    everything = "".join(path.read_text(encoding="utf-8") for path in (out / "selected").glob("*.json*"))
    everything += "".join(path.read_text(encoding="utf-8") for path in (out / "prompts").glob("*.json*"))
    assert '"Ada"' not in everything and "l33t" not in everything
    players = json.loads((out / "selected" / "players.json").read_text())
    assert all(player["low"] <= player["mean"] <= player["high"] for player in players)
    assert "32 hands read, 1 skipped" in capsys.readouterr().out


def test_a_finished_stage_is_not_done_again(logs, tmp_path, capsys):
    stages(logs, tmp_path, "--template", "compact")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    stages(logs, tmp_path, "--template", "compact")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert capsys.readouterr().out.count("is finished") == 3
    row = rows(tmp_path / "prompts" / "train.jsonl")[0]
    assert read_compact(row["prompt"]).me == row["seat"]


def test_a_killed_parse_goes_on_with_the_shards_that_are_whole(logs, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    run("parse", logs, "--out", whole)
    out, calls = tmp_path / "killed", []

    def dies(path, made, keep=files.write_rows):
        calls.append(path.name)
        if len(calls) == 3:  # the hands of the second file
            next(iter(made))
            raise SystemExit("killed")
        return keep(path, made)

    with monkeypatch.context() as patch:
        patch.setattr("experiments.poker.parse.write_rows", dies)
        with pytest.raises(SystemExit):
            dispatch(["parse", str(logs), "--out", str(out)])
    kept = (out / "hands-000000.jsonl").stat().st_mtime_ns
    run("parse", logs, "--out", out)
    assert (out / "hands-000000.jsonl").stat().st_mtime_ns == kept
    names = sorted(path.name for path in whole.glob("*.jsonl"))
    assert names == sorted(path.name for path in out.glob("*.jsonl"))
    assert all((whole / name).read_bytes() == (out / name).read_bytes() for name in names)
    assert not list(out.rglob("*.part"))


def test_a_source_that_changed_after_the_kill_is_read_anew(logs, tmp_path):
    out = tmp_path / "hands"
    run("parse", logs, "--out", out)
    (out / files.SUMMARY).unlink()  # as if killed before the end
    (logs / "0.txt").write_text(texts.TWICE, encoding="utf-8")
    run("parse", logs, "--out", out)
    assert [row["hand"]["hand_id"] for row in rows(out / "hands-000000.jsonl")] == ["3"]


def test_shards_of_sources_that_are_not_given_any_more_are_gone(logs, tmp_path):
    out = tmp_path / "hands"
    (logs / "more.txt").write_text(texts.OLD, encoding="utf-8")
    run("parse", logs, "--out", out)
    assert len(list(out.glob("hands-*.jsonl"))) > 1
    (out / files.SUMMARY).unlink()  # as if killed before the end
    run("parse", logs / "0.txt", "--out", out)
    assert [path.name for path in out.glob("hands-*.jsonl")] == ["hands-000000.jsonl"]


def test_players_by_what_they_collect_need_shares(logs, tmp_path, capsys):
    run("parse", logs, "--out", tmp_path / "hands")
    argv = ["select", str(tmp_path / "hands"), "--out", str(tmp_path / "selected"), "--by", "collected"]
    assert dispatch(argv) == 2 and "give --top and --bottom" in capsys.readouterr().err
    assert dispatch([*argv, "--top", "0.5", "--bottom", "0.5", "--min-hands", "1"]) == 0


def test_win_rates_come_from_training_sessions_only(logs, tmp_path):
    run("parse", logs, "--out", tmp_path / "hands")
    none = ["--min-hands", "1", "--train", "0", "--valid", "0.5"]
    run("select", tmp_path / "hands", "--out", tmp_path / "none", *none)
    assert json.loads((tmp_path / "none" / "players.json").read_text()) == []
    tiers = {seat["tier"] for row in rows(tmp_path / "none" / "test.jsonl") for seat in row["known"].values()}
    assert tiers == {"unknown"}


def test_logs_that_are_there_in_two_forms_are_refused(logs, tmp_path, monkeypatch, capsys):
    """Under other session names: the same hand could be learned from and be asked about in the test."""
    monkeypatch.setattr(select, "ONE_IN", 1)
    text = (logs / "0.txt").read_text(encoding="utf-8")
    (logs / "again.txt").write_text(text.replace("Table '", "Table 'Other "), encoding="utf-8")
    run("parse", logs, "--out", tmp_path / "hands")
    assert dispatch(["select", str(tmp_path / "hands"), "--out", str(tmp_path / "selected")]) == 2
    assert "hold the same hand; parse one form of these logs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "no command 'nothing'"),
        (["parse", "missing.txt", "--out", "OUT"], "no hand histories"),
        (["select", "OUT", "--out", "OUT/x"], "no finished stage"),
        (["prompts", "OUT", "--out", "OUT/x"], "no finished stage"),
        (["evaluate", "--out", "OUT", "--hands", "-5"], "argument --hands: -5 is too small; give 1 or more"),
        (["evaluate", "--out", "OUT", "--seed", "-1"], "argument --seed: -1 is too small; give 0 or more"),
        (["evaluate", "--out", "OUT", "--rounds", "x"], "argument --rounds: 'x' is no whole number"),
        (["evaluate", "--out", "OUT", "--seats", "11"], "argument --seats: invalid choice: 11"),
        (["evaluate", "--out", "OUT/file", "--heroes", "call", "--iterations", "0"], "OUT/file: File exists; choose"),
        (["parse", "OUT/file", "--out", "OUT/x"], "OUT/file: no hand could be read"),
        (["select", "OUT", "--out", "OUT/x", "--min-hands", "-4"], "argument --min-hands: -4 is too small"),
        (["select", "OUT", "--out", "OUT/x", "--bounds", "nan", "1", "2"], "3 ascending bounds need 4 names"),
        (["review", "OUT/file", "--out", "OUT"], "OUT/file: no hand could be read"),
    ],
)
def test_bad_input_is_one_line(argv, message, logs, tmp_path, capsys):
    (tmp_path / "file").write_text("neither text of PokerStars nor PHH\n")
    if argv[0] == "select" and len(argv) > 4:  # of a stage that is there
        run("parse", logs, "--out", tmp_path)
        capsys.readouterr()
    assert dispatch([word.replace("OUT", str(tmp_path)) for word in argv]) == 2
    error = capsys.readouterr().err
    assert message.replace("OUT", str(tmp_path)) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tiers", "hihg"], "--tiers hihg: "),
        (["--choices", "-3"], "choices are (-3,); give bets in big blinds"),
        (["--style", "a\nb"], r"style is 'a\nb'; give one line of text"),
    ],
)
def test_prompts_refuse_what_cannot_be_written(logs, tmp_path, capsys, argv, message):
    stages(logs, tmp_path)
    assert dispatch(["prompts", str(tmp_path / "selected"), "--out", str(tmp_path / "x"), *argv]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_folder_of_another_stage_is_refused(logs, tmp_path, capsys):
    stages(logs, tmp_path)
    assert dispatch(["prompts", str(tmp_path / "hands"), "--out", str(tmp_path / "x")]) == 2
    assert "holds none of train, valid, test; give a folder that `select` wrote" in capsys.readouterr().err
    (tmp_path / "prompts" / "hands-0.jsonl").write_text('{"no": 1}\n')
    assert dispatch(["select", str(tmp_path / "prompts"), "--out", str(tmp_path / "x")]) == 2
    assert "hands-0.jsonl:1: no 'session'; this is no file of the stage before" in capsys.readouterr().err


def test_habits_of_showdowns_alone_are_refused(logs, tmp_path, capsys):
    run("parse", logs, "--out", tmp_path / "hands")
    run("select", tmp_path / "hands", "--out", tmp_path / "selected", "--cards", "showdown", "--min-hands", "1")
    argv = ["prompts", str(tmp_path / "selected"), "--out", str(tmp_path / "prompts"), "--features", "habits"]
    assert dispatch(argv) == 2 and "habits need every hand" in capsys.readouterr().err
    assert dispatch([*argv[:-1], "spot"]) == 0


def test_other_settings_want_another_folder(logs, tmp_path, capsys):
    stages(logs, tmp_path)
    assert dispatch(["prompts", str(tmp_path / "selected"), "--out", str(tmp_path / "prompts"), "--exact"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert dispatch(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def peak_of_parse(folder, count):
    """Bytes that a parse of so many hands held at most, one in four of them damaged."""
    texts_of = [render(random_hand(seed)) for seed in range(20)]
    texts_of[::4] = [text.replace("*** HOLE CARDS ***", "*** HOLES ***") for text in texts_of[::4]]
    source = folder / f"{count}.txt"
    source.write_text("\n\n\n".join(texts_of * (count // 20)))
    tracemalloc.start()
    run("parse", source, "--out", folder / f"hands-{count}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert json.loads((folder / f"hands-{count}" / "summary.json").read_text())["read"] == count * 3 // 4
    return peak


def test_memory_does_not_grow_with_the_log(tmp_path, monkeypatch):
    """What errors leave in cycles is collected first: Python does so in its own time."""
    put, kinds = parse.put, itertools.count()
    monkeypatch.setattr(parse, "put", lambda *row: (put(*row), next(kinds) % 20 or gc.collect()))
    peak_of_parse(tmp_path, 20)  # what is made once
    assert peak_of_parse(tmp_path, 1600) < 1.2 * peak_of_parse(tmp_path, 400)  # both are more than a buffer holds
