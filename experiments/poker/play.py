"""A table to play at, in the terminal or (--web) as a page in the browser: bots or a model against you.

Every hand begins with the same stacks; the result runs on in big blinds.  The same --seed deals the same cards and lets
the others decide in the same way.  With ? (or always, with --advise) you see your equity under an assumption of what
the others hold, the pot odds, an explanation made of computed facts, and with --model its probability of each action.

For research and study of hands that are played here: no assistance while playing for money.
"""

import argparse
import pathlib
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from experiments.poker.advice import ETHICS, Adviser, add_arguments, adviser_of, model_of
from experiments.poker.arguments import Parser, at_least
from experiments.poker.play_game import ADVICE, GAMES, PlayedTable, TableSettings, act_named
from experiments.poker.play_text import SHORT, advice_text, end_text, help_text, what_happened, where_we_are
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.bots import BOTS, LEAKS
from lqlm.poker.arena.match import stream
from lqlm.poker.arena.observation import Agent
from lqlm.poker.pokerstars import render

OPPONENTS: dict[str, Agent] = BOTS | {name.replace(" ", "-"): bot for name, bot in LEAKS.items()}
"""Who can be played against, besides a model."""


def main(argv: Sequence[str]) -> None:
    """Sit down at a table."""
    options = _options(argv)
    agent = model_of(options)
    agents = OPPONENTS | ({"model": agent} if agent else {})
    opponents = tuple(options.opponents or (["model"] if agent else TableSettings().opponents))
    if "model" in opponents and not agent:
        raise UserError("--opponents model: name the model with --model DIR")
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    settings = TableSettings(options.game, options.seats, opponents, options.stack, seed)
    adviser = adviser_of(options, agent)
    if options.web:
        from experiments.poker.web.serve import serve  # its libraries are an extra

        serve(settings, agents, adviser, options.host, options.port, fixed_seed=options.seed is not None)
        return
    table = PlayedTable(settings, agents)
    play(table, adviser, typed(), sys.stdout, hands=options.hands, always=options.advise)
    save(table, options.save)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("play", __doc__)
    defaults = TableSettings()
    parser.add_argument(
        "--game", choices=sorted(GAMES), default=defaults.game, help="no limit hold'em, pot limit Omaha"
    )
    parser.add_argument("--seats", type=int, default=defaults.seats, help="2 to 10, yours among them")
    parser.add_argument(
        "--opponents", nargs="+", metavar="NAME", help=f"in turn: {', '.join(OPPONENTS)}, model (default: tight loose)"
    )
    parser.add_argument("--stack", type=int, default=defaults.stack, help="big blinds at the beginning of every hand")
    parser.add_argument("--seed", type=int, help="of cards and opponents; drawn anew by default")
    parser.add_argument("--hands", type=at_least(0), default=0, help="hands to play; 0: until you leave")
    parser.add_argument("--save", default="", help="file for the hands, as PokerStars text (not with --web)")
    parser.add_argument("--advise", action="store_true", help="show what ? shows before every decision")
    parser.add_argument("--web", action="store_true", help="serve a page instead of playing in the terminal")
    parser.add_argument("--host", default="127.0.0.1", help="address that the page is served on: this machine only")
    parser.add_argument("--port", type=int, default=8765)
    add_arguments(parser)
    options = parser.parse_args(argv)
    if options.web and options.save:
        raise UserError("--save does not go with --web: the page has a button that saves your hands")
    return options


def play(
    table: PlayedTable,
    adviser: Adviser,
    lines: Iterable[str],
    out: TextIO,
    *,
    hands: int = 0,
    always: bool = False,
) -> None:
    """Play hand after hand until the lines end, one says quit, or so many hands are over.

    Args:
        table: at which nothing was dealt yet.
        adviser: who answers ?.
        lines: what the person types.
        out: where everything is shown.
        hands: to be played; 0: any number.
        always: give advice before every decision.
    """
    typed_lines = iter(lines)
    print(f"{ETHICS}\nSeed {table.settings.seed}. {SHORT}", file=out)
    try:
        while not hands or table.number < hands:
            table.deal()
            if not _hand(table, adviser, typed_lines, out, always):
                break
    except KeyboardInterrupt:
        print(file=out)
    print(end_text(table), file=out)


def _hand(table: PlayedTable, adviser: Adviser, lines: Iterator[str], out: TextIO, always: bool) -> bool:
    """One hand; whether it was played to its end."""
    told = 0
    while table.seen is not None:
        told = _tell(table, told, out)
        print(where_we_are(table), file=out)
        if always:
            print(_advice(table, adviser), file=out)
        if not _decide(table, adviser, lines, out):
            return False
    _tell(table, told, out)
    return True


def _tell(table: PlayedTable, told: int, out: TextIO) -> int:
    events = what_happened(table)
    for line in events[told:]:
        print(line, file=out)
    return len(events)


def _decide(table: PlayedTable, adviser: Adviser, lines: Iterator[str], out: TextIO) -> bool:
    """Ask until there is a legal decision; False when the person leaves."""
    assert table.seen is not None
    for line in lines:
        word, _, amount = line.strip().lower().partition(" ")
        word = WORDS.get(word, word)
        if word == "c":
            word = "call" if table.seen.legal.call else "check"
        if word == "quit":
            return False
        if word == "?":
            print(_advice(table, adviser), file=out)
        elif word == "help":
            print(help_text(), file=out)
        elif word:
            try:
                table.act(
                    act_named(word, amount.strip().removesuffix("bb").strip().removeprefix("to ").strip(), table.seen)
                )
                return True
            except UserError as error:
                print(f"  {error}", file=out)
    return False


WORDS: Mapping[str, str] = {
    "f": "fold",
    "k": "check",
    "x": "check",
    "b": "bet",
    "r": "raise",
    "a": "all-in",
    "allin": "all-in",
    "p": "pot",
    "q": "quit",
    "exit": "quit",
    "h": "help",
    "advice": "?",
}
"""Short forms of what can be typed."""


def _advice(table: PlayedTable, adviser: Adviser) -> str:
    seen = table.seen
    assert seen is not None
    rng = stream(table.settings.seed, table.number, ADVICE + seen.index)
    try:
        return advice_text(adviser.advise(seen.hand, seen.decision, seen.cards, rng), table.rules.big)
    except UserError as error:
        return f"  no advice: {error}"


def typed(prompt: str = "> ") -> Iterator[str]:
    """Lines from the keyboard, or from whatever is piped in, until they end."""
    while True:
        try:
            yield input(prompt if sys.stdin.isatty() else "")
        except EOFError:
            return


def save(table: PlayedTable, path: str) -> None:
    """Write the hands that are over as PokerStars text, added to those of the file, if it is there."""
    if not path or not table.hands:
        return
    file = pathlib.Path(path)
    before = file.read_text(encoding="utf-8").rstrip() if file.is_file() else ""
    write_atomic(file, "\n\n\n".join(filter(None, [before, hands_text(table)])))
    count = len(table.hands)
    print(f"{count} hand{'s' * (count != 1)} saved in {path}")


def hands_text(table: PlayedTable) -> str:
    """The hands that are over as PokerStars text."""
    return "\n\n".join(map(render, table.hands))
