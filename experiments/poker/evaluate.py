"""How well agents play: matches, exploitability and agreement, as a table, JSON and plots with 95% intervals.

Written into --out: evaluate.json, table.txt, matches.png, differences.png, small_games.png, agreement.png, and under
matches/ (and matches_omaha/) a file for each line, which is not played again. Agreement needs --selected, a folder of
``select``: the trees learn from its training sessions; they and all models are judged on its test sessions.
Models play under names of their own: --models late=runs/poker_small,stage=ppo early=runs/poker_small,stage=sft
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.poker import evaluate_plots, measure
from experiments.poker.arguments import Parser, at_least
from experiments.poker.evaluate_tables import match_line, tables
from experiments.poker.measure import Row
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.bots import BOTS, LEAKS
from lqlm.poker.arena.features import DecisionTable
from lqlm.poker.arena.language import LanguageAgent, Score, small_game_policy
from lqlm.poker.arena.observation import Agent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.small_games import GAMES, Policy, always_call, cfr_plus, uniform
from lqlm.poker.record import Game

if TYPE_CHECKING:
    from experiments.poker.agent import Player

AGENTS: dict[str, Agent] = {**BOTS, **{name.replace(" ", "-"): bot for name, bot in LEAKS.items()}}
GAMES_OF = {"holdem": Game.HOLDEM, "omaha": Game.OMAHA}
PARTS = ("train", "test")
"""Of --selected: the trees learn from the one, all are judged on the other."""
CHECKPOINTS = (10, 100)
"""Iterations of CFR+ that are shown beside the reference."""


def main(argv: Sequence[str]) -> None:
    """Measure bots against bots, the policies of the small games, and the baselines of agreement."""
    options = _options(argv)
    if options.selected:
        _check_selected(pathlib.Path(options.selected))  # before hours of matches
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    players = _players(options)
    heroes = options.heroes or [*players] or ["tight", "loose", "call", "random"]
    agents = AGENTS | {name: one.agent for name, one in players.items()}
    unknown = sorted({*heroes, *options.opponents} - set(agents))
    if unknown:
        raise UserError(f"--heroes/--opponents: no bot or model {unknown[0]!r}; it is one of {', '.join(agents)}")
    if options.than and options.than not in agents and not any(folder.glob(f"matches*/{options.than}_*")):
        raise UserError(f"--than: {options.than!r} is no bot or model, and has no earlier line in {folder}")
    lines = measure.lines_of(heroes, options.opponents, options.seats)
    found: dict[str, list[Row]] = {"matches": [], "differences": []}
    for game in options.games:
        kept = folder / ("matches" if game == "holdem" else f"matches_{game}")
        for row in measure.matches(lines, agents, Rules(game=GAMES_OF[game]), options.hands, options.seed, kept):
            found["matches"].append(row)
            print(match_line(row), flush=True)
        for row in measure.differences(lines, options.than or heroes[0], kept):
            found["differences"].append({"game": GAMES_OF[game].value, **row})
    found["widths"] = measure.widths(found["matches"])
    found["small games"] = small_games(options.iterations, _small_policies(players) if options.iterations else None)
    if options.selected:
        selected, choices = pathlib.Path(options.selected), (options.samples, options.seed, options.rounds)
        found["agreement"] = agreement(selected, folder, *choices, more=_predictions(players, selected, folder))
    report(found, folder)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("evaluate", __doc__)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--models",
        nargs="*",
        default=[],
        metavar="MODEL",
        help="NAME=PATH[,stage=sft][,config=FILE][,adapter=DIR][,template=compact][,chat=no]: a model's directory, or "
        "a pipeline's folder; they also play in Kuhn and Leduc",
    )
    parser.add_argument("--rows", type=at_least(1), default=32, help="decisions that a model is asked at once")
    parser.add_argument("--heroes", nargs="*", default=[], help="who is measured: the models, or four bots")
    parser.add_argument("--than", default="", help="the hero whom the others are compared with: the first one")
    parser.add_argument(
        "--opponents", nargs="*", default=list(BOTS), help=f"against whom, each alone: {', '.join(AGENTS)}, or a model"
    )
    parser.add_argument("--seats", nargs="+", type=int, choices=range(2, 11), default=[2], metavar="2..10")
    parser.add_argument("--hands", type=at_least(1), default=10_000, help="at least so many hands a line")
    parser.add_argument(
        "--games", nargs="+", choices=GAMES_OF, default=["holdem"], help="no-limit hold'em, pot-limit Omaha"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the cards and of all draws")
    parser.add_argument(
        "--iterations", type=at_least(0), default=1000, help="of CFR+ in the small games; 0 leaves these out"
    )
    parser.add_argument("--selected", help="folder that select wrote: agreement with its test.jsonl")
    parser.add_argument("--samples", type=at_least(1), default=200, help="random deals for the equity of a decision")
    parser.add_argument("--rounds", type=at_least(1), default=100, help="of boosting, for the trees")
    return parser.parse_args(argv)


class Opened(NamedTuple):
    """A model: itself, as an agent for many tables, and its scores of plain words."""

    player: "Player"
    agent: LanguageAgent
    words: Score


def _players(options: argparse.Namespace) -> dict[str, Opened]:
    """The models by name."""
    if not options.models:
        return {}
    from experiments.poker import models  # which imports this module, for the bots' names

    opened: dict[str, Opened] = {}
    for choice in map(models.choice_of, options.models):
        if choice.name in AGENTS or choice.name in opened:
            raise UserError(f"--models: the name {choice.name!r} is taken; give another")
        player = models.open_model(choice, options.rows)
        opened[choice.name] = Opened(player, models.agent_of(player), models.words_of(player.scorer))
    return opened


def _predictions(
    players: Mapping[str, Opened], selected: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What the models would do in the test decisions."""
    from experiments.poker import models

    (folder / "predictions").mkdir(exist_ok=True)
    for name, opened in players.items():
        kept = folder / "predictions" / f"{name}.npz"
        yield name, *models.kept_predictions(selected / "test.jsonl", kept, opened.player)


def _small_policies(players: Mapping[str, Opened]) -> dict[str, dict[str, Policy]]:
    """The models in the small games: at every decision the probabilities that they give the legal words."""
    return {
        game: {name: small_game_policy(game, one.words, one.agent.temperature) for name, one in players.items()}
        for game in GAMES
    }


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
    train, test = (_table(selected / f"{part}.jsonl", folder, samples, seed) for part in PARTS)
    return measure.agreements([*measure.baselines(train, test, seed, rounds), *more], test, seed)


def _check_selected(selected: pathlib.Path) -> None:
    for path in (selected / f"{part}.jsonl" for part in PARTS):
        if not path.exists():
            raise UserError(f"--selected: {path} is missing; name a folder that `select` has finished")


def _table(path: pathlib.Path, folder: pathlib.Path, samples: int, seed: int) -> DecisionTable:
    table = measure.table_of(path, folder, samples, seed)
    if not len(table.labels):
        raise UserError(f"--selected: {path} has no decision of a player whose cards are known")
    return table


def report(found: Mapping[str, list[Row]], folder: pathlib.Path) -> None:
    """Print the tables; write them, the numbers and the plots."""
    text = tables(found)
    write_atomic(folder / "evaluate.json", json.dumps(dict(found), indent=1) + "\n")
    write_atomic(folder / "table.txt", text + "\n")
    evaluate_plots.draw(found, folder)
    print(f"\n{text}\n\nwritten: {folder}")
