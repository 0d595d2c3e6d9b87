"""A record as JSON and back: fields by name, defaults left out, cards as text ("AhKd"), times in ISO 8601."""

import dataclasses
import datetime
import enum
import functools
import types
import typing
from collections.abc import Callable
from typing import Any

from lqlm.poker import cards
from lqlm.poker.record import Collected, Hand, HandError, Mucked, Shown, Unshown

_RESULTS = {"shown": Shown, "mucked": Mucked, "unshown": Unshown, "collected": Collected}
_TAGS = {kind: tag for tag, kind in _RESULTS.items()}


def to_json(hand: Hand) -> dict[str, Any]:
    """A JSON object of a hand; ``from_json(to_json(hand)) == hand``."""
    return _encode("", hand)


def from_json(data: dict[str, Any]) -> Hand:
    """The hand of a JSON object.

    Raises:
        HandError: when it is none.
    """
    try:
        return _decoder(Hand)(data)
    except HandError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HandError(f"this is no hand in JSON: {type(error).__name__}: {error}") from error


def field_to_json(hand: Hand, name: str) -> Any:
    """One field of a hand as JSON."""
    return _encode(name, getattr(hand, name))


def field_from_json(name: str, data: Any) -> Any:
    """The value of a field of :class:`Hand`."""
    return _field_decoder(name, _hints(Hand)[name])(data)


def _encode(name: str, value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        tag = {"is": _TAGS[type(value)]} if type(value) in _TAGS else {}  # type: ignore[index]
        return tag | {key: _encode(key, held) for key, held, default in _fields(value) if held != default}
    if name == "cards":
        return cards.text(value, "")
    if name == "boards":
        return [cards.text(board, "") for board in value]
    if isinstance(value, tuple):
        return [_encode("", item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def _fields(value: Any) -> list[tuple[str, Any, Any]]:
    return [(name, getattr(value, name), default) for name, default in _defaults(type(value))]  # type: ignore[arg-type]


@functools.cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in dataclasses.fields(kind))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    """A function from JSON to a value of a type of the record."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind in (int, str, bool, type(None)):
        return _same
    if origin is tuple:
        item = _decoder(inner[0])
        return lambda data: tuple(item(each) for each in data)
    if origin in (types.UnionType, typing.Union):
        return _union(inner)
    if dataclasses.is_dataclass(kind):
        make = typing.cast(type, kind)
        fields = {name: _field_decoder(name, hint) for name, hint in _hints(make).items()}
        return lambda data: make(**{name: fields[name](held) for name, held in data.items() if name != "is"})
    return datetime.datetime.fromisoformat if kind is datetime.datetime else kind


def _same(data: Any) -> Any:
    return data


def _union(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    some = [kind for kind in kinds if kind is not type(None)]
    if len(some) == 1:
        only = _decoder(some[0])
        return lambda data: None if data is None else only(data)
    return lambda data: _decoder(_RESULTS[data["is"]])(data)


def _field_decoder(name: str, hint: Any) -> Callable[[Any], Any]:
    if name == "cards":
        return cards.cards
    if name == "boards":
        return lambda data: tuple(cards.cards(board) for board in data)
    return _decoder(hint)
