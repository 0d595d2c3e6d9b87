"""What each stage of the pipeline is worth: the same held-out decisions, the same cards and the same draws for all.

A stage is compared with supervised fine-tuning deal by deal (:func:`experiments.poker.measure.differences`), so that
luck that both have cancels: the interval of the difference is narrower than those of the two win rates.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.decoding import first_texts, make_sampler
from experiments.poker import evaluate, measure, models
from experiments.poker.agent import Player
from experiments.poker.contestants import player
from experiments.poker.evaluate_tables import match_line
from experiments.poker.files import fingerprint, read_rows, stamp, write_rows
from experiments.poker.measure import Row
from experiments.poker.pairs import as_legal, spread
from experiments.poker.pipeline_settings import LEARNED, PipelineExperiment
from lqlm.generation.rollout import round_up
from lqlm.io.disk import write_atomic
from lqlm.poker.answers import read_answer, write_answer
from lqlm.poker.arena import agreement as agree
from lqlm.poker.arena.features import DecisionTable
from lqlm.poker.policy import legal_answers
from lqlm.poker.record import HandError
from lqlm.poker.templates import TEMPLATES

ROWS, TABLE = "ablation.json", "ablation.txt"
Prediction = tuple[str, np.ndarray, np.ndarray]
BASE = "sft"
"""What the others are compared with."""
TIMED = 16
"""Questions that are timed one by one."""


def evaluate_stages(settings: PipelineExperiment) -> None:
    """Play and predict with what every stage left, one after the other; write and print the tables."""
    folder, held = settings.folder("evaluate"), settings.evaluate
    folder.mkdir(parents=True, exist_ok=True)
    valid, test = (_hands(settings, part) for part in ("valid", "test"))
    lines = functools.partial(measure.lines_of, opponents=held.opponents, seats=held.seats)
    names = [name for name in LEARNED if name in settings.stages]
    found: dict[str, list[Row]] = {"matches": []}
    predictions, spoken = list[Prediction](), dict[str, Row]()
    for name in names:
        contestant = player(settings, name)
        predictions.append((name, *models.kept_predictions(test, folder / "predictions" / f"{name}.npz", contestant)))
        if name == BASE:
            seen, _ = models.kept_predictions(valid, folder / "predictions" / f"{name}-valid.npz", contestant)
            predictions.append(_corrected(settings, valid, seen, predictions[-1]))
        spoken[name] = _spoken(settings, name, contestant)
        agents = {**evaluate.AGENTS, name: models.agent_of(contestant)}
        rules, kept = settings.logs.rules, folder / "matches"
        for row in measure.matches(lines([name]), agents, rules, held.hands, settings.seed, kept):
            found["matches"].append(row)
            print(match_line(row), flush=True)
    found["differences"] = list(measure.differences(lines(names), BASE, folder / "matches"))
    found["agreement"] = _agreement(settings, test, predictions)
    rows = [_row(name, found, spoken[name]) for name in names]
    write_atomic(folder / ROWS, json.dumps(rows, indent=1) + "\n")
    write_atomic(folder / TABLE, table(rows) + "\n")
    evaluate.report(found, folder)
    print(f"\n{table(rows)}")


def _hands(settings: PipelineExperiment, part: str) -> pathlib.Path:
    """The hands whose decisions are predicted: all of the sessions of a part, or some evenly from all of these."""
    path, count = settings.folder("selected") / f"{part}.jsonl", settings.evaluate.test_hands
    if not count:
        return path
    some = settings.folder("evaluate") / f"{part}-{count}-{fingerprint(stamp(path))}.jsonl"
    if not some.exists():
        write_rows(some, spread(list(read_rows(path)), count))
    return some


def _agreement(settings: PipelineExperiment, test: pathlib.Path, predictions: Sequence[Prediction]) -> list[Row]:
    """The rows of the baselines, which learn from all training sessions, and of the stages."""
    known, asked = _table(settings, settings.folder("selected") / "train.jsonl"), _table(settings, test)
    baselines = measure.baselines(known, asked, settings.seed, settings.evaluate.rounds)
    return measure.agreements([*baselines, *predictions], asked, settings.seed)


def _table(settings: PipelineExperiment, path: pathlib.Path) -> DecisionTable:
    return measure.table_of(path, settings.folder("evaluate"), settings.evaluate.samples, settings.seed)


def _corrected(
    settings: PipelineExperiment, valid: pathlib.Path, seen: np.ndarray, prediction: Prediction
) -> Prediction:
    """The prediction with the prior correction that has the best macro F1 on the valid sessions."""
    name, probabilities, sizes = prediction
    shares = agree.frequencies(_table(settings, settings.folder("selected") / "train.jsonl"))
    power = agree.best_power(seen, _table(settings, valid), shares)
    return f"{name}, prior^{power:.2f}", agree.prior_corrected(probabilities, shares, power), sizes


def _spoken(settings: PipelineExperiment, name: str, contestant: Player) -> Row:
    """What free text, time and prompts are like, of some test prompts."""
    path, count = settings.folder("prompts") / "test.jsonl", settings.evaluate.texts
    asked = [row["prompt"] for row in read_rows(path)]
    asked = spread(asked, count)
    about = [repr(contestant.scorer), contestant.settings.temperature, count, stamp(path)]
    measure_it = functools.partial(_said, settings, contestant, asked, speaks=name != "reward_model")
    return measure.once(settings.folder("evaluate") / "spoken" / f"{name}.json", about, measure_it)


def _said(settings: PipelineExperiment, contestant: Player, asked: Sequence[str], *, speaks: bool) -> Row:
    lengths = [len(contestant.scorer.question(prompt, ["fold"]).prompt) for prompt in asked]
    row = {"texts": len(asked), "tokens per prompt": float(np.mean(lengths))}
    row["seconds per decision"] = seconds_per_decision(contestant, spread(list(asked), TIMED))
    if speaks:
        offered = [
            is_offered(text, prompt, settings.ask.template) for prompt, text in texts(settings, contestant, asked)
        ]
        row["illegal text"] = 1 - float(np.mean(offered))
    return row


def texts(settings: PipelineExperiment, contestant: Player, asked: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Prompts with the answers that the model writes to them freely, its most probable token each time."""
    rows = [contestant.scorer.question(prompt, ["fold"]).prompt for prompt in asked]
    sampling = dataclasses.replace(settings.grpo.sampling, temperature=0.0)
    sizes = {"size": settings.evaluate.shapes.rows, "length": round_up(max(map(len, rows)), 16)}
    model = contestant.model
    yield from zip(
        asked, first_texts(make_sampler(model, sampling, 1), contestant.policy, rows, model.tokenizer, **sizes)
    )


def is_offered(text: str, prompt: str, template: str) -> bool:
    """Whether a text is one of the answers that the prompt offers."""
    state = TEMPLATES[template].read(prompt)
    try:
        return as_legal(read_answer(text), state) in legal_answers(state)
    except HandError:
        return False


def seconds_per_decision(contestant: Player, asked: Sequence[str]) -> float:
    """Seconds for the scores of all legal answers to one prompt, asked one by one, nothing left to compile."""
    read = TEMPLATES[contestant.settings.ask.template].read
    one = contestant.agent().score
    answers = [tuple(map(write_answer, legal_answers(read(prompt)))) for prompt in asked]
    for _ in range(2):
        begun = time.perf_counter()
        for prompt, several in zip(asked, answers):
            one([prompt], [several])
    return (time.perf_counter() - begun) / len(asked)


def _row(name: str, found: Mapping[str, Sequence[Row]], spoken: Row) -> Row:
    (agreed,) = (row for row in found["agreement"] if row["predictor"] == name)
    row = {"stage": name, **{key: agreed[key] for key in ("accuracy", "macro F1")}}
    row |= {key: value for key, value in spoken.items() if key != "digest"}
    more = {_against(line): line["mbb"]["controlled"] for line in found["differences"] if line["hero"] == name}
    row["matches"] = {}
    for match in found["matches"]:
        if match["hero"] == name:
            against = _against(match)
            line = {"hands": match["hands"], "mbb": match["mbb"]["controlled"]}
            row["matches"][against] = line | ({"more than sft": more[against]} if against in more else {})
    return row


def _against(match: Row) -> str:
    return f"{match['seats'] - 1} x {match['against']}"


def table(rows: Sequence[Row]) -> str:
    """The ablation for a person: agreement, text and cost of each stage, then its matches."""
    head = f"{'ablation':14} {'accuracy, 95%':>20} {'macro F1, 95%':>20} {'illegal text':>12} {'ms/decision':>11}"
    lines = [f"{head} tokens/prompt", *map(_words, rows), ""]
    lines.append(f"{'mbb per hand, 95%':14} {'against':>14} {'hands':>6} {'wins':>18} {'more than sft':>18}")
    for row in rows:
        for against, line in row["matches"].items():
            wins, more = (_interval(line.get(key)) for key in ("mbb", "more than sft"))
            lines.append(f"{row['stage']:17} {against:>14} {line['hands']:6} {wins:>18} {more:>18}")
    return "\n".join(lines)


def _words(row: Row) -> str:
    cells = ["{:.3f} [{:.3f},{:.3f}]".format(*row[name]) for name in ("accuracy", "macro F1")]
    wrong = f"{row['illegal text']:.1%}" if "illegal text" in row else "-"
    thought = 1000 * row["seconds per decision"]
    return (
        f"{row['stage']:14} {cells[0]:>20} {cells[1]:>20} {wrong:>12} {thought:11.1f} {row['tokens per prompt']:13.0f}"
    )


def _interval(found: Sequence[float] | None) -> str:
    return "-" if found is None else f"{found[0]:+9.0f} +- {found[1]:5.0f}"
