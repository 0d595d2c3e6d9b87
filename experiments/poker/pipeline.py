"""From logs to an agent that is measured: all stages in one command, from a config file.

usage: python -m experiments.poker pipeline [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.poker pipeline --config configs/poker_small.py
  python -m experiments.poker pipeline --config configs/poker_small.py --config.logs.source="('mine/*.txt',)"

Written into --config.workdir, a folder for each stage:
  logs/       own hands as PokerStars text, where logs.source is empty
  hands/      typed hands, and those skipped with file, line and reason (``parse``)
  selected/   train, valid and test sessions, win rates and tiers of players (``select``)
  prompts/    a prompt and an answer for every decision (``prompts``)
  records/    the same as experiments.sft reads them
  sft/        the trained model or adapter, its curves and its report (``experiments.sft``)
  evaluate/   agreement with held-out decisions and matches, with 95% intervals: evaluate.json, table.txt, plots

Killed at any moment, the same command goes on where it stopped; a stage whose files are gone is made again.

Supervised fine-tuning is all the training there is so far: a reward model, PPO and GRPO on chips are not part of it.
They will be stages of their own between sft and evaluate, each going on from the adapter that the one before left.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.main import run_settings
from experiments.poker import evaluate, measure, parse, prompts, select, self_play
from experiments.poker.agent import AgentSettings, Player, open_player
from experiments.poker.files import SUMMARY, fingerprint, read_rows, stamp, write_rows
from experiments.poker.measure import Row
from experiments.poker.pipeline_settings import PipelineExperiment
from experiments.poker.stages import Stage, run_stages
from experiments.settings import ModelSettings
from experiments.sft.algorithm import SFT
from experiments.sft.settings import DataSettings, SFTExperiment
from lqlm.adapters.configs import FullConfig
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.rules import Rules
from lqlm.poker.stream import files_of
from lqlm.tasks.records import InstructionConfig

DEFAULT = "configs/poker_small.py"
PARTS = tuple(f"{part}.jsonl" for part in select.PARTS)
NAME = "model"


def main(argv: Sequence[str]) -> None:
    """The command; it ends the process, as every command with a config file does."""
    command.run(run, PipelineExperiment, __doc__ or "", DEFAULT, ["pipeline", *argv])


def run(config: Any) -> None:
    """All stages of a ConfigDict."""
    command.use_compilation_cache()
    run_pipeline(from_config(PipelineExperiment, config))


def run_pipeline(settings: PipelineExperiment) -> list[str]:
    """All stages that are not finished; the names of these."""
    done = run_stages(pathlib.Path(settings.workdir), stages(settings))
    if "evaluate" not in done:
        print(f"\n{(_folder(settings, 'evaluate') / 'table.txt').read_text(encoding='utf-8')}")
    return done


def stages(settings: PipelineExperiment) -> list[Stage]:
    """The stages with what each depends on."""
    logs, ask, seed = settings.logs, settings.ask, settings.seed
    own = [logs, seed] if not logs.source else [stamp(file) for file in files_of(logs.source)]
    again = (SUMMARY, "*.jsonl", "shards/*")
    words = [ask, settings.select.tiers]
    measured = ("evaluate.json", "table.txt")
    everything = dataclasses.replace(settings, workdir="")
    return [
        Stage("logs", own, (), ("*.txt",), lambda: _logs(settings)),
        Stage("hands", [], ("logs",), ("hands-*.jsonl", "skipped.jsonl"), lambda: _parse(settings), again),
        Stage("selected", settings.select, ("hands",), PARTS, lambda: _select(settings), again),
        Stage("prompts", words, ("selected",), PARTS, lambda: _prompts(settings), again),
        Stage("records", ask, ("prompts",), PARTS[:2], lambda: _records(settings)),
        Stage("sft", [settings.sft, seed], ("records",), ("model/*", "adapter/*"), lambda: _sft(settings), (SUMMARY,)),
        Stage("evaluate", everything, ("selected", "sft"), measured, lambda: _evaluate(settings), cheap=True),
    ]


def _folder(settings: PipelineExperiment, stage: str) -> pathlib.Path:
    return pathlib.Path(settings.workdir) / stage


def _logs(settings: PipelineExperiment) -> None:
    if not settings.logs.source:
        self_play.write_logs(settings.logs, settings.seed, _folder(settings, "logs"))


def _parse(settings: PipelineExperiment) -> None:
    sources = settings.logs.source or (str(_folder(settings, "logs")),)
    parse.main([*sources, "--out", str(_folder(settings, "hands"))])


def _select(settings: PipelineExperiment) -> None:
    folder, chosen = _folder(settings, "selected"), settings.select
    if not settings.logs.source and not (folder / "key").exists():
        write_atomic(folder / "key", fingerprint(["bots have no secrets", settings.seed]))
    argv = [str(_folder(settings, "hands")), "--out", str(folder), "--cards", chosen.cards]
    argv += ["--min-hands", str(chosen.min_hands), "--seed", str(chosen.seed)]
    select.main([*argv, "--train", str(chosen.train), "--valid", str(chosen.valid)])


def _prompts(settings: PipelineExperiment) -> None:
    ask, tiers = settings.ask, settings.select.tiers
    argv = [str(_folder(settings, "selected")), "--out", str(_folder(settings, "prompts")), "--template", ask.template]
    argv += ["--choices", *map(str, ask.choices), *(["--tiers", *tiers] if tiers else [])]
    prompts.main(argv + ([] if ask.round_up else ["--no-rounding"]))


def _records(settings: PipelineExperiment) -> None:
    for name in PARTS:
        path = _folder(settings, "prompts") / name
        if next(read_rows(path), None) is None:
            raise UserError(f"{path} has no decision; use more sessions, another select.seed, or other tiers")
    for name in PARTS[:2]:
        write_rows(_folder(settings, "records") / name, _records_of(settings, _folder(settings, "prompts") / name))


def _records_of(settings: PipelineExperiment, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    for row in read_rows(path):
        yield settings.ask.record(row["prompt"], row["completion"])


def _sft(settings: PipelineExperiment) -> None:
    train, records = settings.sft, _folder(settings, "records")
    data = DataSettings(
        source=str(records / "train.jsonl"),
        heldout_source=str(records / "valid.jsonl"),
        limit=train.limit,
        heldout=train.heldout,
    )
    experiment = SFTExperiment(
        workdir=str(_folder(settings, "sft")),
        seed=settings.seed,
        model=train.model,
        adapter=train.adapter,
        data=data,
        text=InstructionConfig(
            form="messages" if settings.ask.chat else "completion", max_length=train.max_length, truncation="skip"
        ),
        optim=train.optim,
        run=train.run,
    )
    run_settings(SFT, experiment)


def player(settings: PipelineExperiment) -> Player:
    """What training left, ready to play."""
    folder, train = _folder(settings, "sft"), settings.sft
    if isinstance(train.adapter, FullConfig) or not isinstance(train.model, ModelSettings):
        dtype = train.model.dtype
        model, adapter = ModelSettings(source=str(folder / "model"), quantize=False, dtype=dtype), ""
    else:
        model, adapter = train.model, str(folder / "adapter")
    shapes, temperature = settings.evaluate.shapes, settings.evaluate.temperature
    return open_player(AgentSettings(model, adapter, settings.ask, shapes, temperature, train.run.logprob_chunk))


def _evaluate(settings: PipelineExperiment) -> None:
    folder, selected, held = _folder(settings, "evaluate"), _folder(settings, "selected"), settings.evaluate
    folder.mkdir(parents=True, exist_ok=True)
    trained = player(settings)
    predicted = (NAME, *trained.predictions(measure.known_hands(selected / "test.jsonl")))
    agreement = evaluate.agreement(selected, folder, held.samples, settings.seed, held.rounds, [predicted])
    evaluate.report({"matches": _matches(settings, trained, folder), "agreement": agreement}, folder)


def _matches(settings: PipelineExperiment, trained: Player, folder: pathlib.Path) -> list[Row]:
    held = settings.evaluate
    agents = {**evaluate.AGENTS, NAME: trained.agent()}
    lines = measure.lines_of([NAME], held.opponents, held.seats)
    rows = []
    for row in measure.matches(lines, agents, Rules(), held.hands, settings.seed, folder / "matches"):
        rows.append(row)
        print(evaluate.match_line(row), flush=True)
    return rows
