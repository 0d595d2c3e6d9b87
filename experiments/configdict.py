"""Settings as a ConfigDict and back.

A config file builds the dataclass of its command and returns ``as_config(...)``; the command line overrides single
keys; ``from_config`` turns the ConfigDict back, so that an unknown key or a wrong type is refused before any work.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from lqlm.errors import UserError

KIND = "kind"  # the key that names the dataclass of a section that may be of several


def kind_of(cls: type) -> str:
    """The name of a dataclass among others: its ``kind``, or its own name in small letters, without its last word.

    >>> from lqlm.adapters.configs import Ia3Config
    >>> kind_of(Ia3Config)
    'ia3'
    """
    return vars(cls).get(KIND) or re.sub("(Config|Settings)$", "", cls.__name__).lower()


def kinds(hint: Any) -> dict[str, type]:
    """Kind -> dataclass, of a union of nothing but dataclasses; else nothing."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
    return {kind_of(cls): cls for cls in options} if options and all(map(dataclasses.is_dataclass, options)) else {}


def as_config(value: Any) -> Any:
    """A dataclass as a ConfigDict (nested); where a section may be of several kinds, it also gets its ``kind``."""
    if dataclasses.is_dataclass(value):
        return ConfigDict(_fields(value))
    if isinstance(value, Mapping):
        return ConfigDict({key: as_config(item) for key, item in value.items()})
    return value


def _fields(value: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(type(value))
    return {f.name: _field(hints[f.name], getattr(value, f.name)) for f in dataclasses.fields(value)}


def _field(hint: Any, value: Any) -> Any:
    """A value that may be of several types, such as ``float | None``, stays open to each on the command line."""
    if kinds(hint):
        return ConfigDict({KIND: kind_of(type(value)), **_fields(value)})
    if isinstance(value, Mapping) and len(typing.get_args(hint)) == 2:
        return ConfigDict({key: _field(typing.get_args(hint)[1], item) for key, item in value.items()})
    plain = as_config(value)
    several = typing.get_origin(hint) in (typing.Union, types.UnionType) and not isinstance(plain, ConfigDict)
    return FieldReference(plain, field_type=object) if several else plain


def from_config(cls: Any, value: Any, where: str = "config") -> Any:
    """The object of type ``cls`` that ``value`` (a ConfigDict, or a plain value) describes.

    Raises:
        UserError: naming the key, for an unknown or missing key or a value of another type.
    """
    if kinds(cls):
        cls, value = _by_kind(kinds(cls), value, where)
    if dataclasses.is_dataclass(cls):
        return _dataclass(cls, value, where)
    if typing.get_origin(cls) in (Mapping, dict) or getattr(typing.get_origin(cls), "__name__", "") == "Mapping":
        item = typing.get_args(cls)[1]
        return {key: from_config(item, part, f"{where}.{key}") for key, part in _items(value, where)}
    return _plain(cls, value, where)


def _items(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping | ConfigDict):
        raise UserError(f"{where} is {value!r}; it must be a section of keys")
    return list(value.items())


def _by_kind(options: dict[str, type], value: Any, where: str) -> tuple[type, dict[str, Any]]:
    fields = dict(_items(value, where))
    kind = fields.pop(KIND, None)
    if kind not in options:
        raise UserError(f"{where}.{KIND} is {kind!r}; choose {', '.join(options)}")
    return options[kind], fields


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    arguments = {}
    for key, part in _items(value, where):
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            raise UserError(f"{where}.{key} is no setting; {hint}")
        arguments[key] = from_config(hints[key], part, f"{where}.{key}")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _plain(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where} is {value!r}; choose {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _first_fit(args, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} is {value!r}; it must be a tuple")
        parts = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(parts) != len(value):
            raise UserError(f"{where} is {value!r}; it must have {len(parts)} entries")
        return tuple(from_config(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(zip(parts, value)))
    if hint is Any or origin is not None or not isinstance(hint, type):
        return value.to_dict() if isinstance(value, ConfigDict) else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}")
    return value


def _first_fit(options: tuple[Any, ...], value: Any, where: str) -> Any:
    for option in options:
        try:
            return from_config(option, value, where)
        except UserError:
            continue
    raise UserError(f"{where} is {value!r}; it must be {' or '.join(map(_name, options))}")


def _name(hint: Any) -> str:
    if hint is types.NoneType:
        return "None"
    return str(hint) if typing.get_origin(hint) else getattr(hint, "__name__", str(hint))
