"""The header of a GGUF file: metadata and the place of every tensor, every length checked before it is believed.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic, version, counts, key/value
pairs, tensor descriptions, padding, data.  The reader of the ``gguf`` package takes lengths on trust and never ends on
some corrupted files; this one ends at the first impossible length, and is some ten times faster on a large vocabulary.
"""

import dataclasses
import math
import mmap
import struct
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lqlm.errors import UserError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file.

    Attributes:
      shape: rows first, as numpy has it (the file has it reversed).
      kind: how its numbers are coded.
      start: its first byte, from the start of the file.
      nbytes: its length in bytes; start + nbytes is within the file.
    """

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Header:
    """Metadata and tensors by their names in the file."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Reads forward through the file, and refuses to read past its end."""

    def __init__(self, data: mmap.mmap, path: str):
        self.data, self.path, self.position = data, path, 0

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.path}: GGUF {what} (near byte {self.position}); the file is damaged, fetch it again")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise self.fail(f"header needs {size} bytes more but the file ends at byte {len(self.data)}")
        self.position += size
        return self.data[self.position - size : self.position]

    def numbers(self, code: str, count: int) -> list[Any]:
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("header holds text that is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        return self.number(self.scalar_code(kind))

    def array(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind == _TEXT:
            return [self.text() for _ in range(count)]
        return self.numbers(self.scalar_code(kind), count)

    def scalar_code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.fail(f"header has a value of unknown type {kind}")
        return _SCALARS[kind]


def read_header(data: mmap.mmap, path: str) -> Header:
    """Reads the header of a GGUF file, versions 2 and 3.

    Args:
      data: the whole file.
      path: its name, for messages.

    Returns:
      The Header; every tensor lies within the file.

    Raises:
      UserError: if the file is not GGUF, is truncated, or contradicts itself.
    """
    cursor = _Cursor(data, path)
    _check_start(cursor)
    tensor_count, pair_count = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text()
        if key in metadata:
            raise cursor.fail(f"header has the key {key} twice")
        metadata[key] = cursor.value(cursor.number("I"))
    found = dict(_read_tensor(cursor) for _ in range(tensor_count))
    if len(found) != tensor_count:
        raise cursor.fail("header has two tensors of one name")
    begin = _round_up(cursor.position, _alignment(cursor, metadata))
    return Header(metadata, {name: _place(info, name, begin, cursor) for name, info in found.items()})


def _check_start(cursor: _Cursor) -> None:
    if cursor.data[:4] != b"GGUF":
        raise UserError(f"{cursor.path}: not a GGUF file (it begins with {cursor.data[:4]!r}); check the path")
    cursor.position = 4
    version = cursor.number("I")
    if version not in (2, 3):
        raise UserError(
            f"{cursor.path}: GGUF version {version} is not supported; convert it to little-endian version 3"
        )


def _read_tensor(cursor: _Cursor) -> tuple[str, TensorInfo]:
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name} has {dimensions} dimensions")
    shape = tuple(reversed(cursor.numbers("Q", dimensions)))
    raw_kind, offset = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(raw_kind)
    except ValueError as error:
        raise cursor.fail(f"tensor {name} has the unknown type {raw_kind}") from error
    return name, TensorInfo(shape, kind, offset, _tensor_bytes(cursor, name, shape, kind))


def _tensor_bytes(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise cursor.fail(f"tensor {name} of shape {shape} cannot be made of {kind.name} blocks of {block}")
    return math.prod(shape) // block * block_bytes


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _round_up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _place(info: TensorInfo, name: str, begin: int, cursor: _Cursor) -> TensorInfo:
    start = begin + info.start
    if start + info.nbytes > len(cursor.data):
        raise UserError(
            f"{cursor.path}: truncated: tensor {name} needs bytes {start} to {start + info.nbytes} "
            f"but the file has {len(cursor.data)}; fetch it again"
        )
    return dataclasses.replace(info, start=start)
