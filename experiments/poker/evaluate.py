"""How well agents play: matches, exploitability and agreement, as a table, JSON and plots with 95% intervals.

Written into --out: evaluate.json, table.txt, matches.png, small_games.png, agreement.png, and under matches/ a file
for each line, which is not played again. Agreement needs --selected, a folder of ``select``.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments.poker import evaluate_plots, measure
from experiments.poker.measure import Row
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.bots import BOTS, LEAKS
from lqlm.poker.arena.features import DecisionTable
from lqlm.poker.arena.observation import Agent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.small_games import GAMES, Policy, always_call, cfr_plus, uniform
from lqlm.poker.record import Game

AGENTS: dict[str, Agent] = {**BOTS, **{name.replace(" ", "-"): bot for name, bot in LEAKS.items()}}
CHECKPOINTS = (10, 100)
"""Iterations of CFR+ that are shown beside the reference."""


def main(argv: Sequence[str]) -> None:
    """Measure bots against bots, the policies of the small games, and the baselines of agreement."""
    options = _options(argv)
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    unknown = sorted({*options.heroes, *options.opponents} - set(AGENTS))
    if unknown:
        raise UserError(f"--heroes/--opponents: no bot {unknown[0]!r}; it is one of {', '.join(AGENTS)}")
    rules = Rules(game=Game.OMAHA if options.omaha else Game.HOLDEM)
    lines = measure.lines_of(options.heroes, options.opponents, options.seats)
    found: dict[str, list[Row]] = {"matches": []}
    for row in measure.matches(lines, AGENTS, rules, options.hands, options.seed, folder / "matches"):
        found["matches"].append(row)
        print(match_line(row), flush=True)
    found["small games"] = small_games(options.iterations)
    if options.selected:
        found["agreement"] = agreement(
            pathlib.Path(options.selected), folder, options.samples, options.seed, options.rounds
        )
    report(found, folder)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.poker evaluate", description=__doc__)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--heroes", nargs="*", default=["tight", "loose", "call", "random"], help="who is measured")
    parser.add_argument(
        "--opponents", nargs="*", default=list(BOTS), help=f"against whom, each alone: {', '.join(AGENTS)}"
    )
    parser.add_argument("--seats", nargs="+", type=int, choices=range(2, 11), default=[2], metavar="2..10")
    parser.add_argument("--hands", type=int, default=10_000, help="at least so many hands a line")
    parser.add_argument("--omaha", action="store_true", help="pot-limit Omaha in place of no-limit hold'em")
    parser.add_argument("--seed", type=int, default=0, help="of the cards and of all draws")
    parser.add_argument("--iterations", type=int, default=1000, help="of CFR+ in the small games; 0 leaves these out")
    parser.add_argument("--selected", help="folder that select wrote: agreement with its test.jsonl")
    parser.add_argument("--samples", type=int, default=200, help="random deals for the equity of a decision")
    parser.add_argument("--rounds", type=int, default=100, help="of boosting, for the trees")
    return parser.parse_args(argv)


def small_games(iterations: int, more: Mapping[str, Mapping[str, Policy]] | None = None) -> list[Row]:
    """The rows of uniform play, always calling, CFR+ and further policies (game -> name -> policy)."""
    if not iterations:
        return []
    reference = {game: cfr_plus(game, iterations) for game in GAMES}
    policies: dict[str, dict[str, Policy]] = {}
    for game in GAMES:
        early = {f"cfr+ {count}": cfr_plus(game, count) for count in CHECKPOINTS if count < iterations}
        named = {"uniform": uniform, "always call": always_call, **early, f"cfr+ {iterations}": reference[game]}
        policies[game] = named | dict((more or {}).get(game, {}))
    return measure.small_games(policies, reference)


def agreement(
    selected: pathlib.Path,
    folder: pathlib.Path,
    samples: int,
    seed: int,
    rounds: int = 100,
    more: Iterable[tuple[str, np.ndarray, np.ndarray | None]] = (),
) -> list[Row]:
    """The rows of the baselines and of further predictions of the test decisions (name, probabilities, sizes)."""
    train, test = (_table(selected / f"{part}.jsonl", folder, samples, seed) for part in ("train", "test"))
    return measure.agreements([*measure.baselines(train, test, seed, rounds), *more], test, seed)


def _table(path: pathlib.Path, folder: pathlib.Path, samples: int, seed: int) -> DecisionTable:
    if not path.exists():
        raise UserError(f"--selected: {path} is missing; name a folder that `select` has finished")
    table = measure.table_of(path, folder, samples, seed)
    if not len(table.labels):
        raise UserError(f"--selected: {path} has no decision of a player whose cards are known")
    return table


def report(found: Mapping[str, list[Row]], folder: pathlib.Path) -> None:
    """Print the tables; write them, the numbers and the plots."""
    text = "\n\n".join(filter(None, map(_section, found.items())))
    write_atomic(folder / "evaluate.json", json.dumps(dict(found), indent=1) + "\n")
    write_atomic(folder / "table.txt", text + "\n")
    evaluate_plots.draw(found, folder)
    print(f"\n{text}\n\nwritten: {folder}")


def _section(item: tuple[str, list[Row]]) -> str:
    name, rows = item
    if not rows:
        return ""
    head, line = {
        "matches": (MATCH_HEAD, match_line),
        "small games": (
            f"{'game':6} {'policy':14} {'exploitability':>15} {'against cfr+':>13}  antes per hand",
            game_line,
        ),
        "agreement": (AGREEMENT_HEAD, agreement_line),
    }[name]
    return "\n".join([head, *map(line, rows)])


MATCH_HEAD = (
    f"{'mbb per hand, 95%':32} {'hands':>6} {'as if independent':>20} {'duplicate':>18} {'+ all-in':>18} "
    f"{'+ control variate':>18} {'illegal':>7} {'hands/s':>7} {'ms/decision':>11}"
)


def match_line(row: Row) -> str:
    """A line against one opponent, raw beside adjusted."""
    who = f"{row['hero']} - {row['seats'] - 1} x {row['against']}"
    shown = [f"{mean:+9.0f} +- {half:5.0f}" for mean, half in row["mbb"].values()]
    cells = f"{shown[0]:>20} {shown[1]:>18} {shown[2]:>18} {shown[3]:>18}"
    thought = 1000 * row["seconds per decision"]
    return f"{who:32} {row['hands']:6} {cells} {row['illegal']:7} {row['hands per second']:7.0f} {thought:11.2f}"


def game_line(row: Row) -> str:
    """A policy of a small game."""
    return f"{row['game']:6} {row['policy']:14} {row['exploitability']:15.5f} {row['against cfr+']:+13.5f}"


AGREEMENT_HEAD = (
    f"{'agreement, 95% by session':34} {'accuracy':>20} {'macro F1':>20} {'calibration error':>20} "
    f"{'sizing, log2':>20} {'after the flop':>14}"
)


def agreement_line(row: Row) -> str:
    """A predictor."""
    names = ("accuracy", "macro F1", "calibration error", "sizing error")
    cells = ["{:.3f} [{:.3f},{:.3f}]".format(*row[name]) if name in row else "-" for name in names]
    return (
        f"{row['predictor']:34} "
        + " ".join(f"{cell:>20}" for cell in cells)
        + (f" {row['accuracy after the flop']:14.3f}")
    )
