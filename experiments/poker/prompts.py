"""Selected hands to prompts with answers: rows of "prompt" and "completion" that experiments.sft reads.

A row also holds session, hand, seat, street, the player's pseudonym, tier and win rate, and the true action.
"""

import argparse
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.poker.arguments import Parser
from experiments.poker.ask import add_arguments, ask_of
from experiments.poker.files import SUMMARY, fingerprint, finish, finished, read_rows, shards, stamp, write_rows
from experiments.poker.select import PARTS
from lqlm.errors import UserError
from lqlm.poker import answers, cards, state, told
from lqlm.poker.codec import from_json
from lqlm.poker.profiles import Profiles
from lqlm.poker.record import Hand, player_of
from lqlm.poker.replay import Decision, replay
from lqlm.poker.templates import TEMPLATES


def main(argv: Sequence[str]) -> None:
    """Write the prompts of every part of ``select``."""
    options = _options(argv)
    source, folder, view = pathlib.Path(options.selected), pathlib.Path(options.out), ask_of(options).view
    files = [path for path in shards(source) if path.stem in PARTS]
    if not files:
        raise UserError(f"{source} holds none of {', '.join(PARTS)}; give a folder that `select` wrote")
    chosen = json.loads((source / SUMMARY).read_text(encoding="utf-8"))
    _check_habits(source, chosen, options.features)
    if unknown := sorted(set(options.tiers) - {*chosen["tiers"], "unknown"}):
        raise UserError(f"--tiers {unknown[0]}: {source} has players of {', '.join(chosen['tiers']) or 'no tier'}")
    digest = fingerprint([vars(options), [stamp(file) for file in files]])
    if summary := finished(folder, digest):
        print(f"{folder} is finished\n{report(summary)}")
        return
    summary = {"prompts": {}, "actions": {}}
    for file in files:
        actions: Counter[str] = Counter()
        written = write_rows(folder / file.name, rows(file, options, view, actions))
        summary["prompts"][file.stem], summary["actions"][file.stem] = written, dict(actions)
    finish(folder, digest, summary)
    print(report(summary))


def _check_habits(source: pathlib.Path, chosen: Mapping[str, Any], features: Sequence[str]) -> None:
    """Refuse habits of hands of which only showdowns were kept: whoever folds much would seem to play all of them.

    Raises:
        UserError: saying so.
    """
    if "habits" in features and chosen.get("cards") == "showdown":
        raise UserError(
            f"{source} has showdowns only; habits need every hand: select with --cards known, or leave habits out"
        )


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("prompts", __doc__)
    parser.add_argument("selected", help="folder that select wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    add_arguments(parser, "paper", told.NAMES)
    parser.add_argument("--exact", action="store_true", help="answer with the log's amounts, not the nearest choice")
    parser.add_argument("--tiers", nargs="*", default=[], help="only players of these tiers")
    return parser.parse_args(argv)


def rows(
    file: pathlib.Path, options: argparse.Namespace, view: state.ViewConfig, actions: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The prompts of one part, in the order of its hands; habits are those of the hands before.

    Args:
        file: rows of ``select``.
        options: of the command line.
        view: what prompts show.
        actions: counts of the true actions, added to.
    """
    profiles = Profiles()
    for row in read_rows(file, "session", "hand", "known"):
        hand = from_json(row["hand"])
        played = replay(hand)
        habits = state.names_of(hand, profiles.of) if "habits" in options.features else None
        for decision in played.decisions:
            known = row["known"].get(str(decision.seat))
            if known and (not options.tiers or known["tier"] in options.tiers):
                held = cards.cards(known["cards"])
                seen = state.state_of(hand, decision, held, view, profiles=habits)
                actions[state.word_of(decision.act)] += 1
                yield {"session": row["session"]} | _row(hand, decision, known, options, seen)
        profiles.add(hand, played)


def _row(
    hand: Hand, decision: Decision, known: dict[str, Any], options: argparse.Namespace, seen: state.State
) -> dict[str, Any]:
    decimals, template = hand.money.decimals, TEMPLATES[options.template]
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
        "prompt": template.write(seen),
        "completion": template.answer(said),
    }


def report(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = []
    for part, count in summary["prompts"].items():
        words = ", ".join(f"{word} {n}" for word, n in sorted(summary["actions"][part].items()))
        lines.append(f"  {part:6} {count:8} prompts: {words or 'none'}")
    return "\n".join(lines)
