"""Selected hands to prompts with answers: rows of "prompt" and "completion" that experiments.sft reads.

A row also holds session, hand, seat, street, the player's pseudonym, tier and win rate, and the true action.
"""

import argparse
import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from experiments.poker.files import fingerprint, finish, finished, read_rows, shards, stamp, write_rows
from experiments.poker.select import PARTS
from lqlm.poker import answers, cards, prompts, state
from lqlm.poker.codec import from_json
from lqlm.poker.profiles import Profiles
from lqlm.poker.record import Hand, player_of
from lqlm.poker.replay import Decision, replay

TEMPLATES: dict[str, Callable[[state.State], str]] = {
    "paper": prompts.write_prompt,
    "compact": prompts.write_compact,
}
ANSWERS = {"paper": answers.write_answer, "compact": answers.write_short}
FEATURES = ("pot-odds", "habits")


def main(argv: Sequence[str]) -> None:
    """Write the prompts of every part of ``select``."""
    options = _options(argv)
    source, folder = pathlib.Path(options.selected), pathlib.Path(options.out)
    files = [path for path in shards(source) if path.stem in PARTS]
    digest = fingerprint([vars(options), [stamp(file) for file in files]])
    if summary := finished(folder, digest):
        print(f"{folder} is finished\n{report(summary)}")
        return
    summary = {"prompts": {}, "actions": {}}
    for file in files:
        actions: Counter[str] = Counter()
        written = write_rows(folder / file.name, rows(file, options, actions))
        summary["prompts"][file.stem], summary["actions"][file.stem] = written, dict(actions)
    finish(folder, digest, summary)
    print(report(summary))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.poker prompts", description=__doc__)
    parser.add_argument("selected", help="folder that select wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--template", choices=sorted(TEMPLATES), default="paper")
    parser.add_argument("--exact", action="store_true", help="answer with the log's amounts, not the nearest choice")
    parser.add_argument("--no-rounding", action="store_true", help="show amounts as they are, not in whole big blinds")
    parser.add_argument("--choices", nargs="+", type=int, default=list(state.CHOICES), help="bets in big blinds")
    parser.add_argument("--features", nargs="*", choices=FEATURES, default=[], help="what is told besides")
    parser.add_argument("--style", default="", help='a request such as "aggressive"')
    parser.add_argument("--tiers", nargs="*", default=[], help="only players of these tiers")
    return parser.parse_args(argv)


FeaturesOf = Callable[[Hand, Decision, tuple[int, ...]], state.Features]
"""What is told of a decision besides what is to be seen, from the hand, the decision and the player's cards."""


def rows(
    file: pathlib.Path, options: argparse.Namespace, actions: Counter[str], features_of: FeaturesOf | None = None
) -> Iterator[dict[str, Any]]:
    """The prompts of one part, in the order of its hands; habits are those of the hands before.

    Args:
        file: rows of ``select``.
        options: of the command line.
        actions: counts of the true actions, added to.
        features_of: makes the features (equity, outs); None for those of the options.
    """
    profiles = Profiles()
    make = features_of or default_features(options)
    for row in read_rows(file):
        hand = from_json(row["hand"])
        played = replay(hand)
        habits = state.names_of(hand, profiles.of) if "habits" in options.features else None
        for decision in played.decisions:
            known = row["known"].get(str(decision.seat))
            if known and (not options.tiers or known["tier"] in options.tiers):
                held = cards.cards(known["cards"])
                seen = state.state_of(hand, decision, held, view(options), make(hand, decision, held), habits)
                actions[state.word_of(decision.act)] += 1
                yield {"session": row["session"]} | _row(hand, decision, known, options, seen)
        profiles.add(hand, played)


def view(options: argparse.Namespace) -> state.ViewConfig:
    """How the options show amounts."""
    return state.ViewConfig(round_up=not options.no_rounding, choices=tuple(options.choices))


def default_features(options: argparse.Namespace) -> FeaturesOf:
    """The features that need no evaluator: pot odds and the style."""

    def make(hand: Hand, decision: Decision, held: tuple[int, ...]) -> state.Features:
        features = state.Features(style=options.style)
        if "pot-odds" not in options.features:
            return features
        odds = state.pot_odds(Decimal(decision.legal.call), Decimal(decision.pot))
        return dataclasses.replace(features, pot_odds=odds)

    return make


def _row(
    hand: Hand, decision: Decision, known: dict[str, Any], options: argparse.Namespace, seen: state.State
) -> dict[str, Any]:
    decimals = hand.money.decimals
    exact = answers.exact_answer(decision, decimals)
    said = exact if options.exact else answers.chosen_answer(decision, decimals, seen)
    return {
        "hand": hand.hand_id,
        "seat": decision.seat,
        "street": decision.street,
        "player": player_of(hand)[decision.seat],
        "tier": known["tier"],
        "mbb": known.get("mbb"),
        "action": exact.word,
        "amount": str(exact.amount),
        "prompt": TEMPLATES[options.template](seen),
        "completion": ANSWERS[options.template](said),
    }


def report(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = []
    for part, count in summary["prompts"].items():
        words = ", ".join(f"{word} {n}" for word, n in sorted(summary["actions"][part].items()))
        lines.append(f"  {part:6} {count:8} prompts: {words or 'none'}")
    return "\n".join(lines)
