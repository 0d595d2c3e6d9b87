"""Hand histories of a player to a graded report: every decision, what was seen, what was done, and what it was worth.

The adviser is a model (--model), or without one the equity baseline: a stated rule over equity and pot odds.  The
report is one HTML file that loads nothing; it names other players Opponent 1, 2, .. unless --names is given.

For research and study of hands that are over: no assistance while playing for money.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.poker.advice import Adviser, add_arguments, adviser_of, model_of, observation_of
from experiments.poker.arguments import Parser, at_least
from experiments.poker.review_grade import Reviewed, Rule, Totals, baseline, grade, totals
from experiments.poker.review_page import write_review
from experiments.poker.review_playout import played_on
from lqlm.errors import UserError
from lqlm.poker.record import Hand, HandError, known_cards, player_of
from lqlm.poker.replay import Decision, replay
from lqlm.poker.stream import Read, Tally, read_hands


def main(argv: Sequence[str]) -> None:
    """Write the report."""
    options = _options(argv)
    agent = model_of(options)
    adviser = adviser_of(options, agent)
    tally = Tally()
    player = options.player or dealt_to(_read(options.logs, Tally()))  # logs are read twice, never held
    hands = _read(options.logs, tally)
    found = list(review(hands, player, adviser, Rule(), options.seed, options.limit + 1, options.playouts))
    if not found:
        raise UserError(f"{player!r} takes no decision in these hands; {_who(_names(_read(options.logs, Tally())))}")
    found, cut = found[: options.limit], len(found) > options.limit
    rated = totals(found)
    shown = {"names": options.names, "tally": tally, "playouts": options.playouts, "cut": cut}
    write_review(options.out, found, rated, adviser, Rule(), player, **shown)
    more = f"; the first {options.limit} only (--limit)" if cut else ""
    print(f"{summary(rated)}{more}\n{tally.read} hands read, {tally.skipped.total()} skipped; {options.out}")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("review", __doc__)
    parser.add_argument("logs", nargs="+", help="files, folders or globs: PokerStars text or PHH, also .gz and .tar")
    parser.add_argument("--out", required=True, help="HTML file to write")
    parser.add_argument("--player", default="", help="whose decisions; by default the one whose cards the logs tell")
    parser.add_argument("--names", action="store_true", help="show the players' names")
    parser.add_argument("--limit", type=at_least(1), default=2000, help="decisions in the report at most")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the deals of an equity")
    parser.add_argument(
        "--playouts",
        type=at_least(0),
        default=0,
        help="times that bots play each decision's alternatives on; 0: not at all",
    )
    add_arguments(parser)
    return parser.parse_args(argv)


def _read(logs: Sequence[str], tally: Tally) -> Iterator[Read]:
    for item in read_hands(logs):
        tally.add(item)
        if isinstance(item, Read):
            yield item
    if not tally.read:
        raise UserError(f"{logs[0]}: no hand could be read ({tally.skipped.total()} skipped)")


class Names(NamedTuple):
    """How often players are in hands, and how often the log tells the cards of one of them alone."""

    everyone: Counter[str]
    dealt: Counter[str]


def _names(hands: Iterable[Read]) -> Names:
    found = Names(Counter(), Counter())
    for read in hands:
        names, holes = player_of(read.hand), read.hand.holes
        found.everyone.update(names.values())
        found.dealt.update([names[holes[0].seat]] if len(holes) == 1 else [])
    return found


def dealt_to(hands: Iterable[Read]) -> str:
    """The player whose cards alone the logs tell as dealt ("Dealt to ..").

    Raises:
        UserError: when there is none, or several.
    """
    names = _names(hands)
    if len(names.dealt) != 1:
        found = f"'Dealt to' names {len(names.dealt)} players" if names.dealt else "no player is named by 'Dealt to'"
        raise UserError(f"--player NAME: say whose decisions; {found}, {_who(names)}")
    return next(iter(names.dealt))


def _who(names: Names) -> str:
    return f"most often there are {', '.join(repr(name) for name, _ in names.everyone.most_common(3))}"


def review(
    hands: Iterable[Read],
    player: str,
    adviser: Adviser,
    rule: Rule,
    seed: int = 0,
    limit: int = 2000,
    playouts: int = 0,
) -> Iterator[Reviewed]:
    """Every decision of a player, judged.

    Args:
        hands: in the order of the report.
        player: by name.
        adviser: whose probabilities are held against the decisions; without an agent the equity baseline's.
        rule: of the grades.
        seed: of the deals of an equity.
        limit: decisions at most.
        playouts: times that a decision's alternatives are played on.
    """
    left = limit
    for number, read in enumerate(hands, 1):
        seat = next((seat for seat, name in player_of(read.hand).items() if name == player), None)
        if seat is None or not left:
            continue
        try:
            decisions = [one for one in replay(read.hand).decisions if one.seat == seat][:left]
        except HandError:
            continue
        left -= len(decisions)
        for decision in decisions:
            row = _judge(number, read, decision, adviser, rule, np.random.default_rng([seed, number, decision.index]))
            yield _with_playouts(row, rule, seed, playouts) if playouts and row.cards else row


def _judge(
    number: int, read: Read, decision: Decision, adviser: Adviser, rule: Rule, rng: np.random.Generator
) -> Reviewed:
    hand: Hand = read.hand
    cards = known_cards(hand).get(decision.seat)
    if cards is None or len(decision.live) < 2:
        return Reviewed(number, read.line, hand, decision, (), None, (), None, 0.0)
    try:
        advice = adviser.advise(hand, decision, cards, rng)
    except UserError:  # the ranges leave no deal beside these cards
        return Reviewed(number, read.line, hand, decision, (), None, (), None, 0.0)
    chances = advice.acts or baseline(observation_of(hand, decision, cards), advice.facts, rule)
    judged = grade(decision.act, chances, rule) if chances else (None, 0.0)
    return Reviewed(number, read.line, hand, decision, cards, advice, chances, *judged)


def _with_playouts(row: Reviewed, rule: Rule, seed: int, playouts: int) -> Reviewed:
    seen = observation_of(row.hand, row.decision, row.cards)
    return dataclasses.replace(row, played=played_on(row.hand, seen, row.decision.act, playouts, rule.size, seed))


def summary(found: Totals) -> str:
    """The totals in a line."""
    grades = ", ".join(f"{name} {count}" for name, count in found.grades.items())
    return f"{found.decisions} decisions in {found.hands} hands: {grades or 'none graded'}; {found.ungraded} not graded"
