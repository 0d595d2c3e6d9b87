"""Evaluations and equity samples a second on one core: lqlm beside eval7 and phevaluator in one process.

    python -m benchmarks.equity [--hands 500000] [--runs 7] [--json PATH]

The process binds itself to one core, so that XLA has no second one; rates are of CPU seconds of the whole process
(``time.process_time``), the best and the median run, and what compiles is compiled before.  All take turns, run by run.

What is called is the fastest that each package offers.  phevaluator 0.6 has no batch function: its C functions are
called by ``map`` over columns of ints (`_pheval.evaluate_7cards`, without the wrapper that parses cards), and again as
its documentation shows (`evaluate_cards`).  eval7 takes one list of its cards a call; its sampler of a hand against a
range is one call of C.  `limit` is what a loop in C over phevaluator's own C function does, without Python, where a
compiler is found.
"""

import argparse
import ctypes
import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.memory import print_table
from lqlm.poker.cards import DECK, cards
from lqlm.poker.equity import exact_equity
from lqlm.poker.evaluator import strength
from lqlm.poker.monte_carlo import MonteCarloConfig, monte_carlo_equity
from lqlm.poker.omaha import omaha_strength
from lqlm.poker.ranges import parse_range

RANGE = "22+, A2s+, K9s+, QTs+, JTs, A9o+, KTo+"
LOOP = """
extern int evaluate_7cards(int, int, int, int, int, int, int);
void all(const int *c, int *out, long n) {
  for (long i = 0; i < n; i++, c += 7) out[i] = evaluate_7cards(c[0], c[1], c[2], c[3], c[4], c[5], c[6]);
}
"""
Work = tuple[str, str, int, Callable[[], Any]]
"""What is measured, by whom, of how many evaluations, and the call."""


def one_core() -> None:
    """Bind this process to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def deals(count: int, size: int) -> np.ndarray:
    """Random deals without replacement, int32 [count, size]."""
    order = np.random.default_rng(0).random((count, 52), np.float32).argsort(axis=1)
    return order[:, :size].astype(np.int32)


def own_work(count: int) -> list[Work]:
    """lqlm's calls: arrays in, arrays out, and the functions for a person."""
    hands = jnp.asarray(deals(count, 9))
    seven, hole, board = hands[:, :7] + 0, hands[:, :4] + 0, hands[:, 4:] + 0
    key, aces, kings, weights = jax.random.key(0), cards("AsAh"), cards("KsKh"), parse_range(RANGE)
    cfg, flop = MonteCarloConfig(samples=count), cards("Kd 7c 2s")
    return [
        ("7 cards", "lqlm", count, lambda: strength(seven).block_until_ready()),
        ("Omaha", "lqlm", count, lambda: omaha_strength(hole, board).block_until_ready()),
        ("hand-range samples", "lqlm", count, lambda: monte_carlo_equity(key, [aces, weights], cfg=cfg)),
        ("hand-range samples, flop", "lqlm", count, lambda: monte_carlo_equity(key, [aces, weights], flop, cfg=cfg)),
        ("hand-hand samples", "lqlm", count, lambda: monte_carlo_equity(key, [aces, kings], cfg=cfg)),
        ("10 random hands, deals", "lqlm", count, lambda: monte_carlo_equity(key, [None] * 10, cfg=cfg)),
        ("AsAh-KsKh, all boards", "lqlm", 1_712_304, lambda: exact_equity([aces, kings])),
    ]


def phevaluator_work(count: int, folder: pathlib.Path) -> list[Work]:
    """phevaluator's calls; none where it is not installed."""
    try:
        import phevaluator
        from phevaluator import _pheval
    except ImportError:
        return []
    few = min(count, 100_000)
    hands = deals(count, 9)
    columns, rows = [column.tolist() for column in hands.T], hands[:few, :7].tolist()
    mapped = {"7 cards": (_pheval.evaluate_7cards, columns[:7])}
    mapped["Omaha"] = (_pheval.evaluate_omaha_cards, columns[4:] + columns[:4])
    work: list[Work] = []
    for what, (function, given) in mapped.items():
        work.append(
            (what, "phevaluator, map", count, functools.partial(lambda f, c: list(map(f, *c)), function, given))
        )
    documented = phevaluator.evaluate_cards
    work.append(("7 cards", "phevaluator, as documented", few, lambda: [documented(*row) for row in rows]))
    return work + c_loop(count, _pheval.__file__, folder)


def c_loop(count: int, library: str, folder: pathlib.Path) -> list[Work]:
    """The limit of the C function of phevaluator: a loop in C; none without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return []
    source, built = folder / "loop.c", folder / "loop.so"
    source.write_text(LOOP)
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    run = ctypes.CDLL(str(built)).all
    hands, out = np.ascontiguousarray(deals(count, 7)), np.zeros(count, np.int32)
    pointers = hands.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(count)
    return [("7 cards", "phevaluator, a loop in C (limit)", count, lambda: run(*pointers))]


def eval7_work(count: int) -> list[Work]:
    """eval7's calls; none where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls pyparsing by its old names
            import eval7

            villain = eval7.HandRange(RANGE)
    except ImportError:
        return []
    deck, few = [eval7.Card(text) for text in DECK], min(count, 200_000)
    hands = [[deck[card] for card in hand] for hand in deals(few, 7).tolist()]
    aces, flop = [eval7.Card("As"), eval7.Card("Ah")], [eval7.Card(text) for text in ("Kd", "7c", "2s")]
    sample, kings = eval7.py_hand_vs_range_monte_carlo, eval7.HandRange("KsKh")
    return [
        ("7 cards", "eval7", few, lambda: list(map(eval7.evaluate, hands))),
        ("hand-range samples", "eval7", count, lambda: sample(aces, villain, [], count)),
        ("hand-range samples, flop", "eval7", count, lambda: sample(aces, villain, flop, count)),
        ("hand-hand samples", "eval7", count, lambda: sample(aces, kings, [], count)),
    ]


def measure(work: list[Work], runs: int) -> list[dict[str, Any]]:
    """Millions a CPU second of every call, the calls taking turns."""
    laps: list[list[tuple[float, float]]] = [[] for _ in work]
    for lap in range(runs + 1):
        for (_, _, _, call), seconds in zip(work, laps):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if lap:  # the first one compiles
                seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    rows = []
    for (what, who, count, _), seconds in zip(work, laps):
        cpus, walls = zip(*seconds)
        rates = {"best": min(cpus), "median": statistics.median(cpus), "wall": min(walls)}
        rows.append({"what": what, "who": who} | {name: count / s / 1e6 for name, s in rates.items()})
    return sorted(rows, key=lambda row: (row["what"], -row["best"]))


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rates, the fastest of each kind first."""
    print("millions a CPU second (best, median) and a second of the clock (best), one core")
    lines = [[row["what"], row["who"], *(f"{row[name]:.2f}" for name in ("best", "median", "wall"))] for row in rows]
    print_table(["what", "who", "best", "median", "clock"], lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hands", type=int, default=500_000, help="hands, or samples, of one call")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args(argv)
    one_core()
    with tempfile.TemporaryDirectory() as folder:
        work = own_work(args.hands) + phevaluator_work(args.hands, pathlib.Path(folder)) + eval7_work(args.hands)
        rows = measure(work, args.runs)
    show(rows)
    if args.json:
        args.json.write_text(json.dumps({"python": sys.version, "jax": jax.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
