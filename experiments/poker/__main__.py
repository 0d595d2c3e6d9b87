"""Poker, stage by stage: each command reads files and writes files, and a finished one is not done again.

usage: python -m experiments.poker COMMAND ...      (COMMAND --help lists its arguments)

For research and study; not for assistance while playing for money.
"""

import importlib
import logging
import sys
from collections.abc import Sequence

from lqlm.errors import UserError
from lqlm.poker.record import HandError

COMMANDS = {
    "parse": "experiments.poker.parse",  # logs -> typed hands
    "select": "experiments.poker.select",  # hands -> hands of a split, with cards, win rates and tiers
    "prompts": "experiments.poker.prompts",  # selected hands -> prompts with answers
    "evaluate": "experiments.poker.evaluate",  # agents -> matches, exploitability, agreement with 95% intervals
    "features": "experiments.poker.features",  # what each feature adds to a small model and to trees
    "pipeline": "experiments.poker.pipeline",  # all of it from one config file
    "play": "experiments.poker.play",  # a table for a person, in the terminal or the browser
    "review": "experiments.poker.review",  # hand histories -> a graded report of a player's decisions
    "self-play": "experiments.poker.self_play",  # a trained model plays on against a league of its past
    "train-small": "experiments.poker.small_games",  # self-play in Kuhn and Leduc, exact exploitability over training
}
"""Name -> module with ``main(argv)``; its docstring's first line is the help."""
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def usage() -> str:
    """What ``--help`` prints."""
    lines = [
        (name, (importlib.import_module(module).__doc__ or "").split("\n")[0]) for name, module in COMMANDS.items()
    ]
    return f"{__doc__}\n" + "\n".join(f"  {name:10} {line}" for name, line in lines)


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that the first argument names; bad input ends in one line and status 2."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else EXIT_BAD_INPUT
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"no command {argv[0]!r}; it is one of {', '.join(COMMANDS)}")
        importlib.import_module(COMMANDS[argv[0]]).main(list(argv[1:]))
    except (UserError, HandError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.filename is None:  # no file of the person's
            raise
        print(f"error: {error.filename}: {error.strerror}; choose another file or folder", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    sys.exit(dispatch(sys.argv[1:]))
