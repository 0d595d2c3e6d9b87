"""Weights from safetensors files, one or many, mapped into memory and read tensor by tensor.

Layout (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header of dtypes, shapes and byte
ranges, data.  It is read here rather than by the package because bfloat16 must arrive as such in numpy, and so that a
damaged file is described by its name and its tensor.
"""

import dataclasses
import json
import math
import mmap
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lqlm.errors import UserError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_BYTES = {"U8": np.dtype(np.uint8), "I8": np.dtype(np.int8)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class _Tensor:
    file: pathlib.Path
    data: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class SafeTensors:
    """Open safetensors files; numbers are read when asked for.

    Attributes:
      path: the directory or file that was opened.
      files: the files that hold the weights.
      tensors: name to place.
    """

    path: pathlib.Path
    files: tuple[pathlib.Path, ...]
    tensors: dict[str, _Tensor]

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self.tensors)

    def describe(self, name: str) -> str:
        """Where a tensor lies, for messages."""
        return f"{self.tensors[name].file if name in self.tensors else self.path}: tensor {name}"

    def get(self, name: str) -> np.ndarray:
        """Maps one tensor.

        Args:
          name: its name in the file.

        Returns:
          A read-only view in the file's dtype (float64, float32, float16 or bfloat16) and shape.
        """
        return self._map(name, _DTYPES, "only unquantized models and 4-bit models of bitsandbytes can be loaded")

    def get_packed(self, name: str) -> np.ndarray:
        """Maps one tensor of a quantized checkpoint: as :meth:`get`, and uint8 or int8 too."""
        return self._map(name, _DTYPES | _BYTES, "it is not read from quantized models")

    def _map(self, name: str, dtypes: dict[str, np.dtype], cure: str) -> np.ndarray:
        if name not in self.tensors:
            raise UserError(f"{self.describe(name)} is missing; the checkpoint is incomplete or of another family")
        tensor = self.tensors[name]
        if tensor.dtype not in dtypes:
            raise UserError(f"{self.describe(name)} has dtype {tensor.dtype}; {cure}")
        dtype = dtypes[tensor.dtype]
        if tensor.nbytes != math.prod(tensor.shape) * dtype.itemsize:
            raise UserError(f"{self.describe(name)}: {tensor.nbytes} bytes are not {tensor.dtype}{list(tensor.shape)}")
        return np.frombuffer(tensor.data, dtype, math.prod(tensor.shape), tensor.start).reshape(tensor.shape)


def write_safetensors(file: BinaryIO, tensors: Callable[[], Iterable[tuple[str, np.ndarray]]]) -> None:
    """Writes a safetensors file tensor by tensor; one of them is held in memory at a time.

    Args:
      file: open for writing bytes.
      tensors: gives all names and arrays in a fixed order, and is called twice: once for the header, which comes
        first in the file, and once for the numbers.
    """
    spelled = {dtype: name for name, dtype in (_DTYPES | _BYTES).items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    end = 0
    for name, array in tensors():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": spelled[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in tensors():
        file.write(np.ascontiguousarray(array).tobytes())


def open_safetensors(path: str | pathlib.Path) -> SafeTensors:
    """Opens a safetensors file, or the single or sharded checkpoint of a directory, and checks every header.

    Args:
      path: a ``.safetensors`` file, or a directory with ``model.safetensors`` or ``model.safetensors.index.json``.

    Returns:
      The SafeTensors; no tensor has been read yet.

    Raises:
      UserError: if a file is missing, truncated or corrupted, or a tensor is not where the index says.
    """
    path = pathlib.Path(path)
    index = path / INDEX
    if index.is_file():
        return _open_sharded(path, index)
    file = path / SINGLE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; a model directory needs {SINGLE} or {INDEX}")
    return SafeTensors(path, (file,), _read_header(file))


def _open_sharded(path: pathlib.Path, index: pathlib.Path) -> SafeTensors:
    weight_map = _weight_map(index)
    shards: dict[str, dict[str, _Tensor]] = {}
    for shard in sorted(set(weight_map.values())):
        if not (path / shard).is_file():
            raise UserError(f"{path / shard}: shard is missing though {INDEX} lists it; fetch it again")
        shards[shard] = _read_header(path / shard)
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise UserError(f"{path / shard}: tensor {name} is missing though {INDEX} places it there; fetch it again")
    tensors = {name: shards[shard][name] for name, shard in weight_map.items()}
    return SafeTensors(path, tuple(path / shard for shard in shards), tensors)


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        raise UserError(f"{index}: has no weight_map of tensors to files; fetch it again")
    if any(pathlib.PurePath(shard).name != shard for shard in found.values()):
        raise UserError(f"{index}: names a shard outside its directory; do not trust this checkpoint")
    return found


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.

    Returns:
      The decoded object.

    Raises:
      UserError: if the file is missing or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); is this a Hugging Face model directory?"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not a JSON object; fetch it again")
    return found


def _read_header(file: pathlib.Path) -> dict[str, _Tensor]:
    data = _map(file)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise UserError(
            f"{file}: truncated: its header needs {length} bytes but the file has {len(data)}; fetch it again"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(file, data, 8 + length, name, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: its header is corrupted ({type(error).__name__}: {error}); fetch it again") from error


def _map(file: pathlib.Path) -> mmap.mmap:
    try:
        with file.open("rb") as opened:
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # mmap says ValueError for an empty file
        raise UserError(f"{file}: cannot be read as safetensors ({error}); fetch it again") from error


def _tensor(file: pathlib.Path, data: mmap.mmap, begin: int, name: str, entry: dict[str, Any]) -> _Tensor:
    start, end = (int(offset) for offset in entry["data_offsets"])
    if not 0 <= start <= end:
        raise UserError(f"{file}: tensor {name} has the impossible byte range {start} to {end}; fetch it again")
    if begin + end > len(data):
        needs = f"needs bytes up to {begin + end} but the file has {len(data)}"
        raise UserError(f"{file}: truncated: tensor {name} {needs}; fetch it again")
    shape = tuple(map(int, entry["shape"]))
    if any(size < 0 for size in shape):
        raise UserError(f"{file}: tensor {name} has the impossible shape {list(shape)}; fetch it again")
    return _Tensor(file, data, str(entry["dtype"]), shape, begin + start, end - start)
