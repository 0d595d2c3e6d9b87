"""What each feature adds: one small model for each set of features, at equal steps, beside boosted trees.

usage: python -m experiments.poker features SELECTED --out DIRECTORY [--config FILE] [--steps N] [--length N]
                                            [--sets SET ...]

SELECTED is a folder of ``select``: models learn from its train sessions, the power of the prior correction is chosen on
its valid sessions, and all is measured on its test sessions.  Model, steps and words come from the pipeline's config
file (its 15,000 steps take an hour a set on a core; 1,500 tell sets apart); a set is names of features with a plus
between them, or ``none``.  A set with an example that is longer than a row is refused: learned without its long hands
it could not be compared.  Written into --out: a folder for each set with its records and its run, a file for each
line, which is not made again, features.json and table.txt.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import command
from experiments.configdict import from_config
from experiments.main import run_settings
from experiments.poker import measure, prompts
from experiments.poker.agent import AgentSettings, Player, open_player
from experiments.poker.arguments import Parser, at_least
from experiments.poker.ask import AskSettings
from experiments.poker.evaluate_tables import AGREEMENT_HEAD, agreement_line
from experiments.poker.files import read_rows, stamp, write_rows
from experiments.poker.measure import Row
from experiments.poker.pipeline_settings import PipelineExperiment
from experiments.settings import ModelSettings
from experiments.sft.algorithm import SFT
from experiments.sft.settings import DataSettings, ScratchSettings, SFTExperiment
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.arena import agreement as agree
from lqlm.poker.arena.features import DecisionTable, joined
from lqlm.tasks.records import InstructionConfig

DEFAULT = "configs/poker_pluribus.py"
SETS = (
    "none",
    "equity",
    "equity+pot-odds",
    "equity+pot-odds+spot",
    "equity+pot-odds+spot+class",
    "equity+pot-odds+spot+class+draws",
)
NONE = "none"
PARTS = ("train", "valid", "test")


def main(argv: Sequence[str]) -> None:
    """Train and measure what is not there yet; print the table."""
    options = _options(argv)
    settings = _settings(options)
    if not isinstance(settings.sft.model, ScratchSettings):
        raise UserError(f"{options.config}: sft.model is no ScratchSettings; every set trains a model of its own")
    selected, folder = pathlib.Path(options.selected), pathlib.Path(options.out)
    asks = {name: _ask(settings.ask, name) for name in options.sets}
    files = [selected / f"{part}.jsonl" for part in PARTS]
    if missing := next((file for file in files if not file.exists()), None):
        raise UserError(f"{missing} is missing; name a folder that `select` has finished")
    folder.mkdir(parents=True, exist_ok=True)
    held = Held(*(measure.table_of(file, folder, settings.evaluate.samples, settings.seed) for file in files))
    inputs = [settings.seed, [stamp(file) for file in files]]
    rows = list(_trees(held, settings, folder, inputs))
    report(rows, folder)
    for name, ask in asks.items():
        kept = [name, dataclasses.asdict(ask), dataclasses.asdict(settings.sft), inputs]
        learn = functools.partial(_model, name, ask, settings, selected, folder / name, held)
        rows += measure.once(folder / f"{name}.json", kept, learn)["rows"]
        report(rows, folder)


class Held(NamedTuple):
    """Decisions to learn from, to choose the prior correction on, and to measure on."""

    train: DecisionTable
    valid: DecisionTable
    test: DecisionTable


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("features", __doc__)
    parser.add_argument("selected", help="folder that select wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--config", default=DEFAULT, help=f"settings of the pipeline; {DEFAULT}")
    parser.add_argument("--steps", type=at_least(1), help="of each model, in place of the config's")
    parser.add_argument("--length", type=at_least(1), help="tokens of a row, in place of the config's sft.max_length")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="equity+pot-odds and so on, or none")
    return parser.parse_args(argv)


def _settings(options: argparse.Namespace) -> PipelineExperiment:
    settings = from_config(PipelineExperiment, command.load_config(options.config))
    run = dataclasses.replace(settings.sft.run, steps=options.steps or settings.sft.run.steps)
    sft = dataclasses.replace(settings.sft, run=run, max_length=options.length or settings.sft.max_length)
    return dataclasses.replace(settings, sft=sft)


def _ask(ask: AskSettings, name: str) -> AskSettings:
    return dataclasses.replace(ask, features=() if name == NONE else tuple(name.split("+")))


def train(ask: AskSettings, settings: PipelineExperiment, selected: pathlib.Path, folder: pathlib.Path) -> Player:
    """A model that learned from prompts with these features; a run that is over is only read.

    Args:
        ask: how decisions are put into words.
        settings: model and steps.
        selected: of ``select``.
        folder: where prompts, records and the run go.
    """
    prompts.main([str(selected), "--out", str(folder / "prompts"), *ask.arguments])
    for part in PARTS[:2]:
        if not (path := folder / "records" / f"{part}.jsonl").exists():
            made = read_rows(folder / "prompts" / path.name)
            write_rows(path, (ask.record(row["prompt"], row["completion"]) for row in made))
    try:
        run_settings(SFT, _experiment(ask, settings, folder))
    except UserError as error:
        raise UserError(f"{folder.name}: {error}") from error
    shapes = settings.evaluate.shapes
    model = ModelSettings(source=str(folder / "sft" / "model"), quantize=False)
    return open_player(AgentSettings(model=model, ask=ask, shapes=shapes))


def _experiment(ask: AskSettings, settings: PipelineExperiment, folder: pathlib.Path) -> SFTExperiment:
    sft, records = settings.sft, folder / "records"
    return SFTExperiment(
        workdir=str(folder / "sft"),
        seed=settings.seed,
        model=sft.model,
        adapter=sft.adapter,
        data=DataSettings(
            source=str(records / "train.jsonl"),
            heldout_source=str(records / "valid.jsonl"),
            limit=sft.limit,
            heldout=sft.heldout,
        ),
        text=InstructionConfig(
            form="messages" if ask.chat else "completion", max_length=sft.max_length, truncation="error"
        ),
        optim=sft.optim,
        run=sft.run,
    )


def _model(
    name: str, ask: AskSettings, settings: PipelineExperiment, selected: pathlib.Path, folder: pathlib.Path, held: Held
) -> Row:
    player = train(ask, settings, selected, folder)
    valid, test = (player.words(measure.known_hands(selected / f"{part}.jsonl")) for part in PARTS[1:])
    tokens = [len(player.model.tokenizer.encode(row["prompt"])) for row in read_rows(folder / "prompts" / "test.jsonl")]
    rows = lines(f"model: {name.replace('+', ' + ')}", valid, test, held, settings.seed)
    return {"rows": [row | {"tokens": float(np.mean(tokens)), "steps": settings.sft.run.steps} for row in rows]}


def _trees(held: Held, settings: PipelineExperiment, folder: pathlib.Path, inputs: Any) -> Iterator[Row]:
    rounds = settings.evaluate.rounds
    for groups in measure.FEATURES:
        name = f"trees: {' + '.join(groups)}"
        grow = functools.partial(_boosted, name, groups, rounds, held, settings.seed)
        kept = [groups, rounds, settings.evaluate.samples, inputs]
        yield from measure.once(folder / f"trees-{'+'.join(groups)}.json", kept, grow)["rows"]


def _boosted(name: str, groups: tuple[str, ...], rounds: int, held: Held, seed: int) -> Row:
    both = agree.boosted_trees(held.train, joined(held.valid, held.test), groups, seed, rounds)
    valid, test = np.split(both, [len(held.valid.labels)])
    sizes = agree.boosted_sizes(held.train, held.test, groups, seed, rounds)
    return {"rows": lines(name, valid, test, held, seed, sizes)}


def lines(
    name: str, valid: np.ndarray, test: np.ndarray, held: Held, seed: int, sizes: np.ndarray | None = None
) -> list[Row]:
    """Two rows: predictions as they are, and with the prior correction that was best on the valid sessions.

    Args:
        name: of the predictor.
        valid: its probabilities there, [rows, 5].
        test: its probabilities on the decisions that are measured, [rows, 5].
        held: the decisions.
        seed: of the bootstrap.
        sizes: [rows] of the test decisions, see :func:`lqlm.poker.arena.agreement.agreement`.
    """
    shares = agree.frequencies(held.train)
    power = agree.best_power(valid, held.valid, shares)
    corrected = agree.prior_corrected(test, shares, power)
    rows = measure.agreements([(name, test, sizes), (f"  prior^{power:.2f}", corrected, None)], held.test, seed)
    return [rows[0] | {"of": name}, rows[1] | {"of": name, "power": power}]


def report(rows: Sequence[Row], folder: pathlib.Path) -> None:
    """Print the table; write it and its numbers."""
    text = "\n".join([f"{AGREEMENT_HEAD} {'tokens':>7}", *(_line(row) for row in rows)])
    write_atomic(folder / "features.json", json.dumps(rows, indent=1) + "\n")
    write_atomic(folder / "table.txt", text + "\n")
    print(f"\n{text}", flush=True)


def _line(row: Row) -> str:
    """Calibration is told of probabilities as they are: a correction is for choosing."""
    name = row["predictor"]  # what sets differ by stands at the end
    shown = {**row, "predictor": name if len(name) <= 34 else f"{name[:7]}...{name[-24:]}"}
    if "power" in row:
        del shown["calibration error"]
    return f"{agreement_line(shown)} {row['tokens']:7.1f}" if "tokens" in row else agreement_line(shown)
