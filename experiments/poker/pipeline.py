"""From logs to an agent that is measured: all stages in one command, from a config file.

usage: python -m experiments.poker pipeline [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.poker pipeline --config configs/poker_small.py
  python -m experiments.poker pipeline --config configs/poker_small.py --config.logs.source="('mine/*.txt',)"

Written into --config.workdir, a folder for each stage of --config.stages:
  logs/          own hands as PokerStars text, where logs.source is empty
  hands/         typed hands, and those skipped with file, line and reason (``parse``)
  selected/      train, valid and test sessions, win rates and tiers of players (``select``)
  prompts/       a prompt and an answer for every decision (``prompts``)
  records/       those of the players that are learned from, as experiments.sft reads them
  sft/           the trained model or adapter, its curves and its report (``experiments.sft``)
  pairs/         two answers to each prompt, the better one named: by random answers, win rates or chips
  reward_model/  adapters and a scalar head over what SFT left (``experiments.reward_model``)
  ppo/           the policy after PPO, rewarded by the reward model (``experiments.ppo``)
  grpo/          the policy after GRPO, rewarded in chips by playing on (``experiments.grpo``)
  self_play/     the policy after hands against a league of itself (``self-play``)
  evaluate/      each of these on the same cards: ablation.txt, ablation.json; agreement with held-out decisions and
                 matches with 95% intervals: evaluate.json, table.txt, plots

Killed at any moment, the same command goes on where it stopped; a stage whose files are gone is made again.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments import command
from experiments.algorithm import Algorithm
from experiments.configdict import from_config
from experiments.grpo.algorithm import GRPO
from experiments.main import run_settings
from experiments.poker import ablation, bot_logs, models, parse, prompts, select, tuning
from experiments.poker.files import SUMMARY, fingerprint, read_rows, stamp, write_rows
from experiments.poker.pipeline_settings import PipelineExperiment
from experiments.poker.self_play import SELF_PLAY
from experiments.poker.stages import Stage, run_stages
from experiments.ppo.algorithm import PPO
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.settings import Experiment
from experiments.sft.algorithm import SFT
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.stream import files_of

DEFAULT = "configs/poker_small.py"
PARTS = tuple(f"{part}.jsonl" for part in select.PARTS)
ADAPTER = ("adapter/*",)
Run = Callable[[PipelineExperiment], None]


def main(argv: Sequence[str]) -> None:
    """The command; it ends the process, as every command with a config file does."""
    command.run(run, PipelineExperiment, __doc__ or "", DEFAULT, ["pipeline", *argv])


def run(config: Any) -> None:
    """All stages of a ConfigDict."""
    command.use_compilation_cache()
    run_pipeline(from_config(PipelineExperiment, config))


def run_pipeline(settings: PipelineExperiment) -> list[str]:
    """All stages that are not finished; the names of these."""
    tuning.check(settings)
    tuning.check_model(settings)
    done = run_stages(pathlib.Path(settings.workdir), stages(settings))
    models.keep_settings(settings)
    if "evaluate" in settings.stages and "evaluate" not in done:
        for name in ("table.txt", ablation.TABLE):
            print(f"\n{(settings.folder('evaluate') / name).read_text(encoding='utf-8')}")
    return done


def stages(settings: PipelineExperiment) -> list[Stage]:
    """The stages with what each depends on."""
    logs, ask, seed = settings.logs, settings.ask, settings.seed
    own = [logs, seed] if not logs.source else [stamp(file) for file in files_of(logs.source)]
    again = (SUMMARY, "*.jsonl", "shards/*")
    learning, asked = [settings.adapt, seed], [settings.task, ask]
    measured = ("evaluate.json", "table.txt", ablation.ROWS, ablation.TABLE)
    everything = dataclasses.replace(settings, workdir="")

    def stage(name: str, depends: Any, results: Sequence[str], run: Run, stale: Sequence[str] = ()) -> Stage:
        make, cheap = functools.partial(run, settings), name == "evaluate"
        return Stage(name, depends, settings.before(name), tuple(results), make, tuple(stale), cheap)

    every = [
        stage("logs", own, ["*.txt"], _logs),
        stage("hands", [], ["hands-*.jsonl", "skipped.jsonl"], _parse, again),
        stage("selected", settings.select, PARTS, _select, again),
        stage("prompts", ask, PARTS, _prompts, again),
        stage("records", [ask, settings.select.tiers, settings.select.without], PARTS[:2], _records),
        stage("sft", [settings.sft, seed], ["model/*", *ADAPTER], _trained(SFT, tuning.sft), [SUMMARY]),
        stage("pairs", [settings.pairs, *asked, seed], PARTS[:1], tuning.make_pairs),
        stage(
            "reward_model",
            [settings.reward_model, *learning],
            ADAPTER,
            _trained(REWARD_MODEL, tuning.reward_model),
            [SUMMARY],
        ),
        stage("ppo", [settings.ppo, *learning, *asked], ADAPTER, _trained(PPO, tuning.ppo), [SUMMARY]),
        stage("grpo", [settings.grpo, *learning, *asked], ADAPTER, _trained(GRPO, tuning.grpo), [SUMMARY]),
        stage(
            "self_play",
            [settings.self_play, logs.game, *learning, ask, settings.evaluate.shapes],
            ADAPTER,
            _trained(SELF_PLAY, tuning.self_play),
            [SUMMARY],
        ),
        stage("evaluate", everything, measured, ablation.evaluate_stages),
    ]
    return [one for one in every if one.name in settings.stages]


def _trained(algorithm: Algorithm, experiment: Callable[[PipelineExperiment], Experiment]) -> Run:
    return lambda settings: run_settings(algorithm, experiment(settings))


def _logs(settings: PipelineExperiment) -> None:
    if not settings.logs.source:
        bot_logs.write_logs(settings.logs, settings.seed, settings.folder("logs"))


def _parse(settings: PipelineExperiment) -> None:
    sources = settings.logs.source or (str(settings.folder("logs")),)
    parse.main([*sources, "--out", str(settings.folder("hands"))])


def _select(settings: PipelineExperiment) -> None:
    folder = settings.folder("selected")
    if not settings.logs.source and not (folder / "key").exists():
        write_atomic(folder / "key", fingerprint(["bots have no secrets", settings.seed]))
    select.main([str(settings.folder("hands")), "--out", str(folder), *settings.select.arguments])


def _prompts(settings: PipelineExperiment) -> None:
    prompts.main([str(settings.folder("selected")), "--out", str(settings.folder("prompts")), *settings.ask.arguments])


def _records(settings: PipelineExperiment) -> None:
    for name in PARTS:
        path = settings.folder("prompts") / name
        if next(_records_of(settings, path), None) is None:
            raise UserError(f"{path} has no decision; use more sessions, another select.seed, or other tiers")
    for name in PARTS[:2]:
        write_rows(settings.folder("records") / name, _records_of(settings, settings.folder("prompts") / name))


def _records_of(settings: PipelineExperiment, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The decisions that SFT learns from; pairs also need those of other tiers."""
    tiers, without = settings.select.tiers, settings.select.without
    for row in read_rows(path):
        if (not tiers or row["tier"] in tiers) and row["action"] not in without:
            yield settings.ask.record(row["prompt"], row["completion"])
