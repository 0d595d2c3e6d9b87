"""Quantization on this machine, side by side with bitsandbytes where it is installed.

    python -m benchmarks.quantize [--size 4096] [--repeats 20] [--json PATH]

In the environment of the peers (``make parity``) both sides run in one process and take turns, so that whatever else
the machine does meets both.  Times are the minimum and the median of the repeats; a ratio above 1 means that lqlm is
faster.  Every result is waited for, and is a new array on both sides.
"""

import argparse
import functools
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.quant import QuantConfig, dequantize, matmul, quantize

Case = tuple[Callable[[], Any], Callable[[], Any] | None]
TOKENS = 512
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Times every case on both sides and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the weight")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each side")
    parser.add_argument("--json", type=pathlib.Path, help="write the times there as well")
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    arguments = parser.parse_args()
    w = np.random.default_rng(0).standard_normal((arguments.size, arguments.size)).astype(np.float32)
    cases = {name: case for name, case in _cases(w).items() if arguments.only in name}
    rows = {name: _interleaved(*case, arguments.repeats) for name, case in cases.items()}
    print(_table(rows, arguments.size))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_record(rows, arguments.size, arguments.repeats), indent=2) + "\n")


def _cases(w: np.ndarray) -> dict[str, Case]:
    """What is timed: name -> (lqlm, bitsandbytes or None)."""
    theirs = _peer(w)
    return {name: (run, theirs.get(name)) for name, run in _own(w).items()}


def _own(w: np.ndarray) -> dict[str, Callable[[], Any]]:
    held = jnp.asarray(w)
    single, q = quantize(held, QuantConfig(double=False)), quantize(held)
    runs: dict[str, Callable[[], Any]] = {
        "quantize, one level": lambda: quantize(held, QuantConfig(double=False)),
        "quantize, double": lambda: quantize(held, QuantConfig()),
    }
    for name in DTYPES:
        dtype = jnp.dtype(name)
        runs[f"dequantize to {name}"] = functools.partial(dequantize, single, dtype)
        runs[f"dequantize to {name}, double"] = functools.partial(dequantize, q, dtype)
        x = jnp.asarray(np.random.default_rng(1).standard_normal((TOKENS, len(w))), dtype)
        runs[f"forward and backward, {TOKENS} tokens, {name}"] = functools.partial(_train(), x, q)
        runs[f"forward, one token, {name}"] = functools.partial(jax.jit(matmul), x[:1], q)
    return {name: lambda run=run: jax.block_until_ready(run()) for name, run in runs.items()}  # type: ignore[misc]


def _train() -> Callable[..., Any]:
    """``y = x w`` and the gradient of its sum of squares by ``x``: one product forward and one backward."""

    def step(x: jax.Array, q: Any) -> tuple[jax.Array, jax.Array]:
        y, pull = jax.vjp(lambda x: matmul(x, q), x)
        return y, pull(y)[0]

    return jax.jit(step)


def _peer(w: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same of bitsandbytes; empty where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import bitsandbytes
            import bitsandbytes.functional as functional
            import torch
        except ImportError:
            return {}
    held = torch.from_numpy(w.T.copy())
    four_bit = functools.partial(functional.quantize_4bit, held, quant_type="nf4", blocksize=64)
    runs: dict[str, Callable[[], Any]] = {
        "quantize, one level": four_bit,
        "quantize, double": functools.partial(four_bit, compress_statistics=True),
    }
    for name in DTYPES:
        dtype = getattr(torch, name)
        for double in (False, True):
            packed, state = four_bit(compress_statistics=double)
            state.dtype = dtype
            title = f"dequantize to {name}{', double' if double else ''}"
            runs[title] = functools.partial(functional.dequantize_4bit, packed, state)
        x = torch.from_numpy(np.random.default_rng(1).standard_normal((TOKENS, len(w))).astype(np.float32)).to(dtype)
        runs[f"forward and backward, {TOKENS} tokens, {name}"] = _peer_train(bitsandbytes, held, x)
        runs[f"forward, one token, {name}"] = _peer_token(bitsandbytes, held, x[:1])
    return runs


def _peer_layer(bitsandbytes: Any, held: Any, dtype: Any) -> Any:
    out_features, in_features = held.shape
    layer = bitsandbytes.nn.Linear4bit(
        in_features, out_features, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True
    )
    layer.weight = bitsandbytes.nn.Params4bit(held.clone(), requires_grad=False, quant_type="nf4")
    return layer.to("cpu")


def _peer_train(bitsandbytes: Any, held: Any, x: Any) -> Callable[[], Any]:
    layer = _peer_layer(bitsandbytes, held, x.dtype).train()

    def run() -> Any:
        given = x.detach().requires_grad_(True)
        y = layer(given)
        y.backward(y.detach())
        return given.grad

    return run


def _peer_token(bitsandbytes: Any, held: Any, x: Any) -> Callable[[], Any]:
    """In evaluation, where the peer packs the weights anew at the first call if the processor allows."""
    import torch

    layer = _peer_layer(bitsandbytes, held, x.dtype).eval()

    def run() -> Any:
        with torch.no_grad():
            return layer(x)

    return run


def _interleaved(own: Callable[[], Any], peer: Callable[[], Any] | None, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each side, the sides taking turns; two runs of each come first and are not counted."""
    sides = {"lqlm": own, **({} if peer is None else {"bitsandbytes": peer})}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(repeats + 2):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            if i >= 2:
                times[side].append(1e3 * (time.perf_counter() - start))
    return times


def _ratio(times: dict[str, list[float]], measure: Callable[[list[float]], float]) -> float | None:
    if "bitsandbytes" not in times:
        return None
    return float(measure(times["bitsandbytes"]) / measure(times["lqlm"]))


def _table(rows: dict[str, dict[str, list[float]]], size: int) -> str:
    lines = [f"NF4, {size} x {size}, milliseconds, minimum / median", ""]
    lines.append(f"{'':44s}{'lqlm':>18s}{'bitsandbytes':>18s}{'ratio':>16s}")
    for name, times in rows.items():
        cells = [f"{min(t):8.2f} /{np.median(t):8.2f}" for t in times.values()]
        ratios = [_ratio(times, min), _ratio(times, lambda t: float(np.median(t)))]
        shown = "" if ratios[0] is None else f"{ratios[0]:7.2f} /{ratios[1]:6.2f}"
        lines.append(f"{name:44s}{cells[0]:>18s}{cells[1] if len(cells) > 1 else '-':>18s}{shown:>16s}")
    return "\n".join(lines)


def _record(rows: dict[str, dict[str, list[float]]], size: int, repeats: int) -> dict[str, Any]:
    cases = {
        name: {
            **{side: {"min_ms": min(t), "median_ms": float(np.median(t))} for side, t in times.items()},
            "ratio_min": _ratio(times, min),
            "ratio_median": _ratio(times, lambda t: float(np.median(t))),
        }
        for name, times in rows.items()
    }
    facts = {"size": size, "repeats": repeats, "jax": jax.__version__, "cores": os.cpu_count()}
    return {**facts, "load": os.getloadavg()[0], "cases": cases}


if __name__ == "__main__":
    main()
