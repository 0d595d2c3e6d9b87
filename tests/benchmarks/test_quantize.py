"""The quantization benchmark runs, and its sides are what they say."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import quantize as benchmark
from lqlm.quant import QuantConfig, dequantize, quantize


def test_every_case_is_timed_and_recorded(monkeypatch, tmp_path, capsys):
    arguments = ["quantize", "--size", "64", "--repeats", "2", "--json", str(tmp_path / "times.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    record = json.loads((tmp_path / "times.json").read_text())
    assert record["size"] == 64 and len(record["cases"]) == 10
    printed = capsys.readouterr().out
    for name, case in record["cases"].items():
        assert name in printed
        assert 0 < case["lqlm"]["min_ms"] <= case["lqlm"]["median_ms"]
        assert ("bitsandbytes" in case) == (case["ratio_min"] is not None)


def test_cases_compute_what_their_names_say():
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    runs = benchmark._own(w)
    single = quantize(jnp.asarray(w), QuantConfig(double=False))
    jax.tree.map(np.testing.assert_array_equal, runs["quantize, one level"](), single)
    np.testing.assert_array_equal(runs["dequantize to bfloat16"](), dequantize(single, jnp.bfloat16))
    x = np.random.default_rng(1).standard_normal((512, 64)).astype(np.float32)
    dense = np.asarray(dequantize(quantize(jnp.asarray(w))))
    y, dx = runs["forward and backward, 512 tokens, float32"]()
    np.testing.assert_allclose(y, x @ dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, x @ dense @ dense.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(runs["forward, one token, float32"](), x[:1] @ dense, rtol=1e-4, atol=1e-4)


def test_sides_take_turns():
    order = []
    times = benchmark._interleaved(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert order == ["a", "b"] * 5 and all(len(t) == 3 for t in times.values())
