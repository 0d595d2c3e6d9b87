"""What ``--help`` says about the settings: every key with its value and the line that documents it."""

import dataclasses
import inspect
import re
import shlex
import textwrap
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from experiments.configdict import KIND, from_config, kind_of, kinds

COLUMN, WIDTH = 44, 120
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.+)")
_COMMENTED = re.compile(r"^    (\w+): [^#\n]*# (.+)$", re.MULTILINE)


def describe(cls: type, config: ConfigDict, path: str) -> str:
    """All keys of a config file, by section, with the file's values.

    Args:
        cls: the dataclass that the config describes.
        config: of the file.
        path: of the file.
    """
    intro = "Each is set with --config.SECTION.KEY=VALUE; a key that may be None takes the word None.\n"
    flags = {
        "--config=FILE": "a file whose get_config() makes the settings; FILE:TEXT calls get_config(TEXT)",
        "--cache=.cache/jax": "folder of compiled programs, kept between runs; empty for none",
    }
    entries = "\n".join(_entry(*item) for item in flags.items())
    sections = _sections(from_config(cls, config), "config")
    return f"Flags\n{entries}\n\nSettings, with the values of {path}\n{intro}\n" + "\n".join(sections)


def _sections(value: Any, where: str, options: Mapping[str, type] = MappingProxyType({})) -> list[str]:
    docs, choices = field_docs(type(value)), typing.get_type_hints(type(value))
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    lines = [f"{where} ({_summary(type(value))})"]
    if len(options) > 1:
        lines.append(_entry(f"--{where}.{KIND}={kind_of(type(value))}", f"one of {', '.join(options)}"))
    for name, item in fields.items():
        if not _is_section(item):
            lines.append(_entry(f"--{where}.{name}={_shown(item)}", _doc(docs.get(name, ""), choices[name])))
    parts = [part for name, item in fields.items() for part in _parts(item, f"{where}.{name}", choices[name])]
    return ["\n".join(lines) + "\n", *parts]


def _parts(item: Any, where: str, hint: Any) -> list[str]:
    if not _is_section(item):
        return []
    if dataclasses.is_dataclass(item):
        return _sections(item, where, kinds(hint))
    return [section for name, part in item.items() for section in _sections(part, f"{where}.{name}")]


def _is_section(item: Any) -> bool:
    named = isinstance(item, Mapping) and bool(item) and all(map(dataclasses.is_dataclass, item.values()))
    return dataclasses.is_dataclass(item) or named


def _shown(value: Any) -> str:
    text = textwrap.shorten(str(value), 60, placeholder="...")
    quoted = f'"{text}"' if "'" in text and not set(text) & set('"$`!\\') else shlex.quote(text)
    return quoted if text else ""


def _doc(text: str, hint: Any) -> str:
    choices = [str(choice) for choice in typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else []
    return text if all(choice in text for choice in choices) else f"{text} ({' or '.join(choices)})"


def _entry(flag: str, doc: str) -> str:
    left = f"  {flag}"
    pad = "\n" if len(left) >= COLUMN and doc else ""
    body = textwrap.wrap(doc.strip(), WIDTH - COLUMN) or [""]
    joined = f"\n{' ' * COLUMN}".join(body)
    return (left + pad + " " * (COLUMN if pad else COLUMN - len(left)) + joined).rstrip()


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or cls.__name__).split("\n\n")[0].replace("\n", " ").replace("`", "").rstrip(".")


def field_docs(cls: type) -> dict[str, str]:
    """The documentation of each field: its entry under "Attributes:", or the comment behind it, or its base's.

    >>> from lqlm.optim.chains import OptimConfig
    >>> field_docs(OptimConfig)["clip_norm"]
    'of the gradient of all adapters together; None does not clip'
    """
    docs: dict[str, str] = {}
    for part in reversed([part for part in cls.__mro__ if dataclasses.is_dataclass(part)]):
        docs |= _own_docs(part)
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    docs = dict(_COMMENTED.findall(inspect.getsource(cls)))
    _, _, attributes = ((cls.__doc__ and inspect.cleandoc(cls.__doc__)) or "").partition("Attributes:\n")
    entries = re.split(r"\n(?=\S)", textwrap.dedent(attributes.split("\n\n")[0]))
    for match in filter(None, (_ENTRY.fullmatch(" ".join(entry.split())) for entry in entries)):
        docs |= {name: match[2].replace("`", "") for name in match[1].split(", ")}
    return docs
