"""PokerStars hand histories: ``parse`` a text, ``render`` a record."""

from lqlm.poker.pokerstars_reader import parse, parse_lines
from lqlm.poker.pokerstars_writer import render

__all__ = ["parse", "parse_lines", "render"]
