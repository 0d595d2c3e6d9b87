"""The sweep over sizes runs, varies one quantity at a time, and its bytes grow with it."""

import json

import pytest

from benchmarks.size import Size, main


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    out, picture = tmp_path / "size.json", tmp_path / "size.png"
    middle = Size(width=64, layers=1, group=2, tokens=8, prompts=1, vocab=64)
    main(["--repeats", "1", "--json", str(out), "--plot", str(picture)], middle, {"group": (2, 4), "layers": (1,)})
    cases = json.loads(out.read_text())["cases"]
    assert [(x["varied"], x["size"]["group"]) for x in cases] == [("group", 2), ("group", 4), ("layers", 2)]
    assert all(x["sample"] > 0 and x["update"] > 0 for x in cases)
    assert cases[0]["update_bytes"] < cases[1]["update_bytes"]
    assert cases[0]["sample_bytes"] < cases[1]["sample_bytes"]
    assert cases[0] == cases[2] | {"varied": "group"}  # the middle is measured once
    assert picture.read_bytes()[:4] == b"\x89PNG" and "update tok/s" in capsys.readouterr().out
