"""The benchmark of paging runs, at the shape of a toy."""

import dataclasses
import json

import pytest

from benchmarks import paging
from experiments.plan import shapes

TINY = shapes.llama(layers=2, width=128, ffn=128, heads=2, vocab_size=64)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "65B", TINY)


def test_the_command_prints_writes_and_draws(tiny, capsys, tmp_path):
    argv = ["--modes", "slice", "--shares", "0", "1", "--optimizers", "adamw"]
    argv += ["--tokens", "8", "--repeats", "1"]
    paging.main([*argv, "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")], cfg=TINY)
    found = json.loads((tmp_path / "out.json").read_text())
    lines = {(x["paging"], x["offload"]): x for x in found["cases"]}
    assert set(lines) == {("none", 0.0), ("slice", 0.0), ("slice", 1.0)}
    for (_, share), line in lines.items():
        assert (line["host"] > 0) == (share > 0) and min(line["step_ms"]) > 0 and min(line["update_ms"]) > 0
    none, leaf, layer = found["65B"]
    assert [x["paging"] for x in found["65B"]] == ["none", "leaf", "slice"]
    assert none["in_transit"] == 0 < layer["in_transit"] == pytest.approx(leaf["in_transit"] / TINY.layers, abs=1)
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:3] == ["optimizer", "paging", "share"] and "compile s" in shown[1]


def test_the_shape_is_that_of_smollm2():
    cfg = paging.SMOLLM2
    assert (cfg.layers, cfg.width, cfg.ffn, cfg.heads, cfg.kv_heads, cfg.head_dim) == (30, 576, 1536, 9, 3, 64)
    assert cfg.tied and cfg.vocab_size == 49152


def test_a_share_of_paging_is_a_setting_of_the_optimizer():
    chosen = paging.optims(["adamw8bit"], ["slice"], [0.5])
    facts = [(x.optimizer, x.paging, x.offload) for x in chosen]
    assert facts == [("adamw8bit", "none", 1.0), ("adamw8bit", "slice", 0.5)]
    assert dataclasses.asdict(chosen[0])["learning_rate"] > 0
