"""The fields of a PHH file: TOML with exact decimals, amounts in one unit."""

import json
import tomllib
from decimal import Decimal
from typing import Any

from lqlm.poker.amounts import read_amount
from lqlm.poker.record import HandError


def load(text: str) -> dict[str, Any]:
    """The fields of a TOML text.

    Raises:
        HandError: when it is none.
    """
    try:
        return _load_plain(text)
    except ValueError:  # more of TOML than lines of plain values
        pass
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise HandError(f"no TOML: {error}") from error


def _load_plain(text: str) -> dict[str, Any]:
    """Lines "name = value" whose values are JSON but for the quotes, as nearly all files are: five times as fast.

    Raises:
        ValueError: when there is anything else.
    """
    data: dict[str, Any] = {}
    for line in text.splitlines():
        name, equals, value = line.partition(" = ")
        if not equals or not name.isidentifier() or '"' in value or "\\" in value or name in data:
            raise ValueError(line)
        data[name] = json.loads(value.replace("'", '"'), parse_float=Decimal)
    return data


class Fields:
    """The fields of a file, its amounts in one unit."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.decimals = max([_places(value) for value in data.values()] + [2 if data.get("currency_symbol") else 0])

    def need(self, name: str) -> Any:
        """A field that must be there."""
        if name not in self.data:
            raise HandError(f"the field {name!r} is missing")
        return self.data[name]

    def amount(self, value: object) -> int:
        """An amount in the file's unit."""
        return read_amount(format(value, "f") if isinstance(value, Decimal) else str(value), self.decimals)


def _places(value: object) -> int:
    """Decimals that a field's amounts need."""
    if isinstance(value, list):
        return max((_places(item) for item in value), default=0)
    if isinstance(value, str):  # an action: "p1 cbr 2.50"
        words = value.split("#")[0].split()
        return _places(Decimal(words[2])) if words[1:2] == ["cbr"] and _is_number(words[2:]) else 0
    if isinstance(value, Decimal) and value.is_finite():
        return max(0, -int(value.normalize().as_tuple().exponent))
    return 0


def _is_number(words: list[str]) -> bool:
    return len(words) == 1 and words[0].replace(".", "", 1).isdecimal()
