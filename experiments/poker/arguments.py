"""Arguments of the poker commands: a bad one ends in one line, as all bad input does."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from lqlm.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ``argparse`` parser of a command, without the usage before each error.

    Args:
        name: of the command.
        about: its help, as it is laid out.
    """

    def __init__(self, name: str, about: str | None) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m experiments.poker {name}", description=about, formatter_class=plain)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message} (--help lists the arguments)")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number that is not less, for ``add_argument(type=...)``."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; give {least} or more")
        return value

    return whole
