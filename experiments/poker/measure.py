"""What ``evaluate`` measures: matches, exploitability and agreement, each line a file of its own, done once."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.poker.files import fingerprint, read_rows
from lqlm.io.disk import write_atomic, write_streamed
from lqlm.poker import cards
from lqlm.poker.arena import agreement as agree
from lqlm.poker.arena.features import GROUPS, DecisionTable, Known, decision_table
from lqlm.poker.arena.lockstep import play_lockstep
from lqlm.poker.arena.match import ESTIMATORS, Match, difference, mbb
from lqlm.poker.arena.observation import Agent
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.showdowns import equity_against_one
from lqlm.poker.arena.small_games import Policy, expected_value, exploitability
from lqlm.poker.codec import from_json

Row = dict[str, Any]
DEALS, ARRAYS = ".npz", ("chips", "all_in", "terms")
FEATURES = (("public",), ("public", "cards"), tuple(GROUPS))


@dataclasses.dataclass(frozen=True)
class Line:
    """A hero against copies of one opponent."""

    hero: str
    against: str
    seats: int

    def path(self, folder: pathlib.Path) -> pathlib.Path:
        """The file of its row; what each deal was worth lies beside it."""
        return folder / f"{self.hero}_{self.against}_{self.seats}.json".replace(" ", "-")


def once(path: pathlib.Path, settings: Any, measure: Callable[[], Row]) -> Row:
    """The row of a file, measured and written if it is not there with these settings."""
    digest = fingerprint(settings)
    if path.exists():
        row = json.loads(path.read_text(encoding="utf-8"))
        if row.get("digest") == digest:
            return row
    row = {"digest": digest, **measure()}
    write_atomic(path, json.dumps(row, indent=1) + "\n")
    return row


def lines_of(heroes: Sequence[str], opponents: Sequence[str], seats: Sequence[int]) -> list[Line]:
    """Every hero against every other opponent at each number of seats."""
    return [Line(h, o, n) for n in seats for h in heroes for o in opponents if h != o]


def matches(
    lines: Iterable[Line], agents: Mapping[str, Agent], rules: Rules, hands: int, seed: int, folder: pathlib.Path
) -> Iterator[Row]:
    """The rows of lines, each at least so many hands, in whole deals.

    Args:
        lines: who plays whom.
        agents: name -> agent; a file is played again when the agent's ``repr`` changes.
        rules: what is played.
        hands: of a line.
        seed: of all cards: every line has the same.
        folder: where lines are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        hero, other = agents[line.hero], agents[line.against]
        settings = [dataclasses.asdict(line), repr(hero), repr(other), repr(rules), hands, seed]
        paired = fingerprint([line.against, line.seats, *settings[2:]])
        field, deals, path = [other] * (line.seats - 1), -(-hands // line.seats), line.path(folder)
        play = functools.partial(_played, line, rules, hero, field, deals, seed, path, paired)
        if not path.with_suffix(DEALS).exists():
            path.unlink(missing_ok=True)
        yield once(path, settings, play)


def _played(
    line: Line,
    rules: Rules,
    hero: Agent,
    field: Sequence[Agent],
    deals: int,
    seed: int,
    path: pathlib.Path,
    paired: str,
) -> Row:
    before = _asked(hero)
    match = play_lockstep(rules, hero, field, deals, seed)
    row = {"game": rules.game.value, **dataclasses.asdict(line), **match_row(match), "paired": paired}
    write_streamed(path.with_suffix(DEALS), lambda beside: _save(beside, match))
    prompts, tokens = _asked(hero) - before
    return {**row, "tokens per prompt": tokens / prompts} if prompts else row


def _save(path: pathlib.Path, match: Match) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: getattr(match, name) for name in ARRAYS}, big_blind=match.big_blind)


def _asked(agent: Agent) -> np.ndarray:
    """Prompts and tokens that a model was asked so far; zeros for what is none."""
    score = getattr(agent, "score", None)
    return np.array([getattr(score, "prompts", 0), getattr(score, "tokens", 0)])


def differences(lines: Iterable[Line], than: str, folder: pathlib.Path) -> Iterator[Row]:
    """By how much each hero wins more than one of them against the same opponents, with the same cards.

    Args:
        lines: all were played into the folder.
        than: the hero whom the others are compared with.
        folder: of :func:`matches`.
    """
    for line in lines:
        other = dataclasses.replace(line, hero=than)
        if line.hero != than and _paired(line.path(folder), other.path(folder)):
            one, base = (_read(each.path(folder).with_suffix(DEALS)) for each in (line, other))
            found = {name: [estimate.mean, estimate.half] for name, estimate in difference(one, base).items()}
            apart = math.hypot(*(mbb(match)["controlled"].half for match in (one, base)))
            yield {**dataclasses.asdict(line), "than": than, "hands": one.hands, "mbb": found, "unpaired": apart}


def _paired(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether both were played with the same cards against the same opponents; an older file may be of others."""
    found = [json.loads(path.read_text(encoding="utf-8")).get("paired") for path in (one, other) if path.exists()]
    return len(found) == 2 and found[0] == found[1]


def _read(path: pathlib.Path) -> Match:
    with np.load(path, allow_pickle=False) as kept:
        return Match(int(kept["big_blind"]), kept["chips"], kept["all_in"], kept["terms"], 0, 0, 0.0, 0.0)


def widths(rows: Sequence[Row]) -> list[Row]:
    """How wide intervals are beside those of as many hands without duplicates, the median over lines by seats."""
    found = []
    for seats in sorted({row["seats"] for row in rows}):
        halves = [[half for _, half in row["mbb"].values()] for row in rows if row["seats"] == seats]
        ratios = np.median([np.array(each) / each[0] for each in halves if each[0] > 0] or [[np.nan] * 4], axis=0)
        found.append({"seats": seats, "lines": len(halves), **dict(zip(ESTIMATORS, map(float, ratios)))})
    return found


def match_row(match: Match) -> Row:
    """A match in numbers: mbb per hand with 95% half widths, counts, speed."""
    found = {name: [estimate.mean, estimate.half] for name, estimate in mbb(match).items()}
    return {
        "hands": match.hands,
        "mbb": found,
        "decisions": match.decisions,
        "illegal": match.illegal,
        "seconds per decision": match.thinking / max(match.decisions, 1),
        "hands per second": match.hands_per_second,
    }


def small_games(policies: Mapping[str, Mapping[str, Policy]], reference: Mapping[str, Policy]) -> list[Row]:
    """Exploitability of policies and what they win from a reference (CFR+), in antes per hand, exact.

    Args:
        policies: game -> name -> policy.
        reference: game -> policy.
    """
    return [
        {
            "game": game,
            "policy": name,
            "exploitability": exploitability(game, policy),
            "against cfr+": expected_value(game, policy, reference[game]),
        }
        for game, named in policies.items()
        for name, policy in named.items()
    ]


def known_hands(path: pathlib.Path) -> Iterator[Known]:
    """The hands of a file of ``select``, with the cards that it knows."""
    for row in read_rows(path):
        held = {int(seat): cards.cards(known["cards"]) for seat, known in row["known"].items()}
        yield Known(row["session"], from_json(row["hand"]), held)


def table_of(path: pathlib.Path, folder: pathlib.Path, samples: int, seed: int) -> DecisionTable:
    """The decisions of a file of ``select``; equity costs minutes, so that the table is kept."""
    state = path.stat()
    kept = folder / f"{path.stem}-{fingerprint([str(path), state.st_size, state.st_mtime_ns, samples, seed])}.npz"
    if not kept.exists():
        rng = np.random.default_rng(seed)
        table = decision_table(known_hands(path), lambda hole, board: equity_against_one(hole, board, rng, samples))
        with kept.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(table, field.name) for field in dataclasses.fields(table)})
    with np.load(kept, allow_pickle=False) as found:
        fields = {name: found[name] for name in found.files}
    return DecisionTable(**{**fields, "names": tuple(map(str, fields["names"]))})


def baselines(
    train: DecisionTable, test: DecisionTable, seed: int, rounds: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, probabilities and sizes of the majority and of trees with more and more features."""
    yield "majority", agree.majority(train, test), None
    for groups in FEATURES:
        name = f"trees: {' + '.join(groups)}"
        yield (
            name,
            agree.boosted_trees(train, test, groups, seed, rounds),
            agree.boosted_sizes(train, test, groups, seed, rounds),
        )


def agreements(
    predictions: Iterable[tuple[str, np.ndarray, np.ndarray | None]], test: DecisionTable, seed: int
) -> list[Row]:
    """The rows of predictions: all decisions, and those after the flop."""
    rows = []
    later = test.features[:, test.names.index("street")] > 0
    for name, probabilities, sizes in predictions:
        found = agree.agreement(probabilities, test, np.random.default_rng(seed), sizes)
        row = {"predictor": name, "decisions": found.decisions, "sessions": found.sessions}
        row |= {key: [m.value, m.low, m.high] for key, m in found.measures.items()}
        row["accuracy after the flop"] = float((probabilities.argmax(1) == test.labels)[later].mean())
        rows.append(row | {"confusion": found.confusion.tolist(), "bins": found.bins.tolist()})
    return rows
