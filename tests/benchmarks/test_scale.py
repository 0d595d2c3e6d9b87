"""Collectives are counted as the loops run them, and seconds follow the stated formula."""

import math
import types

import pytest

from benchmarks.scale import LLAMA70B, Collective, by_kind, collectives, parameters, parse, seconds

PROGRAM = """\
HloModule m, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: (s32[], u8[4,8])) -> (s32[], u8[4,8]) {
  %g = u8[32,8]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %flag = f32[] all-reduce(%one), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}

%body (p: (s32[], u8[4,8])) -> (s32[], u8[4,8]) {
  %w = (s32[], u8[4,8]) while(%init), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
}

%one (p: f32[2]) -> f32[2] {
  %t = (bf16[2,3]{1,0}, f32[4]{0}) all-to-all(%a, %b), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %w = (s32[], u8[4,8]) while(%init), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %choice = f32[2] conditional(%i, %a, %b), branch_computations={%one, %one}
  %all = (f32[16]{0}, f32[8]{0}) all-reduce(%x, %y), channel_id=4, replica_groups=[1,8]<=[8], to_apply=%add
}
"""


def test_collectives_are_counted_with_their_loops():
    found = collectives(PROGRAM)
    assert sorted(found, key=lambda c: c.kind) == [
        Collective("all-gather", 32 * 8, 15, 4),
        Collective("all-reduce", 4, 15, 2),
        Collective("all-reduce", 96, 1, 8),
        Collective("all-to-all", 28, 2, 8),
    ]
    table = by_kind(found)
    assert table["all-gather"] == {"programmed": 1, "run": 15, "bytes": 15 * 256}
    assert table["single numbers"]["run"] == 17


def test_seconds_are_those_of_the_formula():
    options = parse(["--flops=100", "--hbm=1000", "--interconnect=100", "--slow=10", "--utilization=1"])
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 4, "tensor": 2})
    found = [Collective("all-reduce", 10**9, 3, 2), Collective("all-gather", 10**9, 2, 16)]
    weights = parameters(LLAMA70B)
    s = seconds(options, LLAMA70B, mesh, found, tokens=1000)
    assert s["compute"] == pytest.approx(6 * weights * 1000 / (16 * 1e14))
    assert s["memory"] == pytest.approx(3 * 4.5 * weights / 2 / 1e12)
    assert s["network"] == pytest.approx(3 * 1e9 * 0.5 * 2 / 1e11 + 2 * 1e9 * 15 / 16 / 1e10)
    assert s["serial"] == pytest.approx(s["compute"] + s["memory"] + s["network"])
    assert s["tokens_per_second"] == pytest.approx(1000 / max(s["compute"] + s["memory"], s["network"]))


def test_a_70b_model_has_70_billion_weights():
    assert math.isclose(parameters(LLAMA70B) + LLAMA70B.vocab_size * LLAMA70B.width, 70.55e9, rel_tol=1e-3)
