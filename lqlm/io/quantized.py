"""Quantized models in lqlm's own directories: any codebook, block and mixture, read back bit for bit.

The directory is Hugging Face's: ``config.json``, ``model.safetensors``, the tokenizer.  A quantized weight ``X.weight``
lies there as its arrays, ``X.weight.codes``, ``X.weight.maxima`` (with double quantization ``.codes``, ``.absmax`` and
``.offset`` of it) and ``X.weight.shift`` if it has one; dense tensors as ever.  ``quantization_config`` in
``config.json`` has ``quant_method`` ``lqlm`` (so that other tools refuse the model rather than misread it), the formats
that occur, and the format of every weight.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import linears_of
from lqlm.errors import UserError
from lqlm.io.export import as_hf, check_dtype, entries, write_model
from lqlm.io.packed import PackedWeights
from lqlm.io.safetensors import SafeTensors
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, root_of
from lqlm.models.hf_config import config_to_hf
from lqlm.quant.budget import label
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.qtensor import QTensor, QuantConfig, check_finite, quantize
from lqlm.types import Array, PyTree

METHOD, VERSION = "lqlm", 1
DENSE = "dense"
_WEIGHT = ".weight"
_DOUBLE = ("codes", "absmax", "offset")
_AGAIN = "the directory is damaged, write it again"


def save_quantized(
    directory: str | os.PathLike[str],
    base: PyTree,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    dtype: str = "bfloat16",
) -> None:
    """Writes a quantized model as a directory that :func:`lqlm.io.load.load_model` reads back bit for bit.

    It is whole or not at all, and in one file.

    Args:
      directory: made; a model of the same files that lies there is replaced, any other file refused.
      base: the base tree; linear maps dense, quantized or mixed.
      config: its shape.
      tokenizer: written beside it; ``load_model`` needs it.
      dtype: of embedding, head, norms and biases; linear maps that are dense keep their own.

    Raises:
      UserError: when the base does not fit the config, the disk is full, or the directory holds other files.
    """
    check_dtype(dtype)
    linear = _linear_shapes(config)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, entry in entries(base, config):
            if isinstance(entry, QTensor):
                yield from ((f"{name}.{key}", np.asarray(part)) for key, part in _parts(entry).items())
            else:
                yield name, as_hf(name, entry, entry.dtype.name if name in linear else dtype)

    facts = {"torch_dtype": dtype, "quantization_config": _quantization_config(base, config)}
    write_model(directory, {**config_to_hf(config), **facts}, tensors, tokenizer)


def _parts(q: QTensor) -> dict[str, Any]:
    """The arrays of a quantized matrix, abstract ones too, by the ends of their names."""
    found = {"codes": q.codes, "shift": q.shift}
    if isinstance(q.maxima, DoubleQuantized):
        found |= {f"maxima.{key}": getattr(q.maxima, key) for key in _DOUBLE}
    else:
        found["maxima"] = q.maxima
    return {key: array for key, array in found.items() if array is not None}


def _quantization_config(base: PyTree, config: ModelConfig) -> dict[str, Any]:
    formats: dict[str, dict[str, Any]] = {}
    weights, linear = {}, _linear_shapes(config)
    for name, entry in entries(base, config):
        if name in linear:
            fmt = entry.config if isinstance(entry, QTensor) else None
            key = weights[name] = DENSE if fmt is None else _key(fmt)
            if fmt is not None:
                formats[key] = dataclasses.asdict(fmt)
    return {"quant_method": METHOD, "version": VERSION, "formats": formats, "weights": weights}


def _key(fmt: QuantConfig) -> str:
    return label(fmt) + (f"-{fmt.double_block}" if fmt.double and fmt.double_block != 256 else "")


@dataclasses.dataclass(frozen=True)
class QuantizedWeights(PackedWeights):
    """An open directory of :func:`save_quantized`; numbers are read when asked for.

    Attributes:
      formats: name to format, of every linear map; None is dense.
      shapes: name to (in, out), of every linear map.
    """

    formats: Mapping[str, QuantConfig | None]
    shapes: Mapping[str, tuple[int, int]]

    @property
    def names(self) -> frozenset[str]:
        """The names of all weights; the arrays of a quantized one stand under its own."""
        quantized = {name for name, fmt in self.formats.items() if fmt is not None}
        return frozenset(_owner(name, quantized) for name in self.inner.names)

    def packed(self, name: str) -> QTensor | Array | None:
        """A linear map as ``[in, out]``, as it was saved; None for any other tensor."""
        if name not in self.formats:
            return None
        fmt = self.formats[name]
        return jnp.asarray(self.inner.get(name).T) if fmt is None else self._quantized(name, fmt)

    def check_format(self, quant: QuantConfig | None) -> None:
        """Refuses a wish for another format than the model's own; None wishes for nothing."""
        for name, own in self.formats.items():
            if quant is not None and quant != own:
                raise UserError(
                    f"{self.inner.path}: {name} is held as {label(own)} already, and {label(quant)} was asked for; ask "
                    "for no quantization (model.quantize=False), or start from the unquantized model"
                )

    def _quantized(self, name: str, fmt: QuantConfig) -> QTensor:
        shape = self.shapes[name]
        like = jax.eval_shape(functools.partial(quantize, config=fmt), jax.ShapeDtypeStruct(shape, jnp.float32))
        if f"{name}.shift" in self.inner.names:
            like = like.replace(shift=jax.ShapeDtypeStruct((shape[0] // fmt.block, shape[1]), jnp.float32))
        found = {key: self._part(f"{name}.{key}", spec) for key, spec in _parts(like).items()}
        maxima = _double(found, fmt.double_block) if fmt.double else found["maxima"]
        return QTensor(found["codes"], maxima, shape, like.dtype, fmt, found.get("shift"))

    def _part(self, name: str, spec: Any) -> Array:
        array = self.inner.get_packed(name)
        if array.shape != spec.shape or array.dtype != spec.dtype:
            found, needed = f"{array.dtype}{list(array.shape)}", f"{spec.dtype}{list(spec.shape)}"
            raise UserError(f"{self.describe(name)} is {found}, by its format it must be {needed}; {_AGAIN}")
        if spec.dtype != jnp.uint8:
            check_finite(self.describe(name), array)
        return jnp.asarray(array)


def _double(found: Mapping[str, Array], block: int) -> DoubleQuantized:
    codes, absmax, offset = (found[f"maxima.{key}"] for key in _DOUBLE)
    return DoubleQuantized(codes, absmax, offset, block)


def _owner(name: str, quantized: set[str]) -> str:
    start, found, _ = name.partition(_WEIGHT + ".")
    return start + _WEIGHT if found and start + _WEIGHT in quantized else name


def open_quantized(weights: SafeTensors, raw: Mapping[str, Any], config: ModelConfig) -> QuantizedWeights | None:
    """Reads which format each weight has.

    Args:
      weights: the open files.
      raw: the decoded ``config.json``.
      config: the model's shape.

    Returns:
      The QuantizedWeights, or None for a directory that :func:`save_quantized` did not write.

    Raises:
      UserError: for a newer version, or a format that is unknown or missing.
    """
    found = raw.get("quantization_config")
    if not isinstance(found, Mapping) or found.get("quant_method") != METHOD:
        return None
    where = f"{weights.path / 'config.json'}: quantization_config"
    if found.get("version") != VERSION:
        raise UserError(f"{where}.version is {found.get('version')!r}, this lqlm reads {VERSION}; use a newer lqlm")
    known: dict[Any, QuantConfig | None] = {DENSE: None}
    for key, settings in _mapping(found, "formats", where).items():
        known[key] = _read_format(settings, f"{where}.formats.{key}")
    named, formats = _mapping(found, "weights", where), {}
    shapes = _linear_shapes(config)
    for name in shapes:
        if named.get(name) not in known:
            raise UserError(f"{where}.weights: {name} has the format {named.get(name)!r}, not of {where}.formats")
        formats[name] = known[named[name]]
    return QuantizedWeights(weights, formats, shapes)


def _mapping(found: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(found.get(key), Mapping):
        raise UserError(f"{where}.{key} is {found.get(key)!r}, not an object; {_AGAIN}")
    return found[key]


def _read_format(settings: Any, where: str) -> QuantConfig:
    try:
        return QuantConfig(**settings)
    except (TypeError, UserError) as error:
        raise UserError(f"{where}: {error}; {_AGAIN}") from error


def _linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    tensors = layer_tensors(config)
    table = [tensors[key] for key in linears_of(tensors)]
    places = [(layer, *entry) for layer in range(config.layers) for entry in table]
    return {f"{root_of(config)}.layers.{layer}.{inner}": (shape[1], shape[0]) for layer, inner, shape in places}
