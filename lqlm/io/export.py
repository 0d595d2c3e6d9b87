"""Models as Hugging Face directories that ``transformers`` loads: config.json, model.safetensors, the tokenizer."""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.io.disk import Content, write_directory
from lqlm.io.safetensors import SINGLE, write_safetensors
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, outer_tensors, root_of
from lqlm.models.hf_config import config_to_hf
from lqlm.quant.mixed import MixedStack, dense
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array, PyTree

DTYPES = ("float32", "bfloat16", "float16")
TABLES = ("embed_tokens.weight", "embed_positions.weight")
"""Ends of the names of matrices that are looked up and not multiplied by."""


def save_hf(
    directory: str | os.PathLike[str],
    base: PyTree,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    dtype: str = "bfloat16",
) -> None:
    """Writes a model as a directory that ``transformers`` and :func:`lqlm.io.load.load_model` load.

    It is whole or not at all.  What is quantized is dequantized, one matrix at a time; the numbers go to one file.

    Args:
      directory: made; an export of the same files that lies there is replaced, any other file refused.
      base: the base tree, its linear maps dense, quantized or mixed.
      config: its shape.
      tokenizer: written beside it; without one the directory holds the weights alone.
      dtype: of all tensors: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
      UserError: when the base does not fit the config, the disk is full, or the directory holds other files.
    """
    check_dtype(dtype)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        return ((name, as_hf(name, entry, dtype)) for name, entry in entries(base, config))

    write_model(directory, {**config_to_hf(config), "torch_dtype": dtype}, tensors, tokenizer)


def write_model(directory: str | os.PathLike[str], config: dict[str, Any], tensors: Any, tokenizer: Any) -> None:
    """Puts config, weights (as of :func:`write_safetensors`) and tokenizer into a directory, whole or not at all."""
    own = {} if tokenizer is None else tokenizer_files(tokenizer)
    ids = {} if tokenizer is None else _special_ids(tokenizer)
    files: dict[str, Content] = {
        "config.json": as_json({**config, **ids}),
        SINGLE: lambda file: write_safetensors(file, tensors),
        **own,
    }
    if ids:
        files["generation_config.json"] = as_json(ids)
    write_directory(directory, files)


def entries(base: PyTree, cfg: ModelConfig) -> Iterator[tuple[str, Array | QTensor]]:
    """Every tensor under its Hugging Face name, layer by layer, linear maps and the head as ``[in, out]``.

    Args:
      base: the base tree.
      cfg: its shape, against which every tensor is checked.

    Yields:
      A name and an array or one quantized matrix.

    Raises:
      UserError: if the base is not one of this shape.
    """
    layers = base["layers"]
    table = layer_tensors(cfg, output_bias="o_bias" in layers)
    if layers.keys() != table.keys() or ("head" in base) == cfg.tied:
        found, needed = sorted(layers), sorted(table)
        raise UserError(f"base: holds {found} (head: {'head' in base}), a {cfg.family} of this config {needed}")
    for key, w in layers.items():
        count = len(w.kinds) if isinstance(w, MixedStack) else jax.tree.leaves(w)[0].shape[0]
        if count != cfg.layers:  # an index beyond the end of an array gives its last entry
            raise UserError(f"base: {key} has {count} layers, its config asks for {cfg.layers}; pass its own config")
    outer = {
        key: (name, _checked(name, base[key], shape[::-1] if key == "head" else shape))
        for key, (name, shape) in outer_tensors(cfg).items()
    }
    yield outer.pop("embed")
    for layer in range(cfg.layers):
        for key, (inner, shape) in table.items():
            name = f"{root_of(cfg)}.layers.{layer}.{inner}"
            yield name, _checked(name, layer_of(layers[key], layer), shape[::-1])
        if needs_output_bias(cfg) and "o_bias" not in layers:
            yield f"model.layers.{layer}.self_attn.o_proj.bias", jnp.zeros(cfg.width)
    yield from outer.values()


def needs_output_bias(cfg: ModelConfig) -> bool:
    """Whether transformers gives o_proj a bias where q, k and v have one (GGUF files may lack it)."""
    return cfg.qkv_bias and cfg.family in ("llama", "qwen3")


def layer_of(w: MixedStack | QTensor | Array, layer: int) -> QTensor | Array:
    """One layer of a stack, in the format that it has there."""
    if isinstance(w, MixedStack):
        return layer_of(w.stacks[w.kinds[layer]], w.slots[layer])
    return jax.tree.map(lambda leaf: leaf[layer], w)


def as_hf(name: str, entry: Array | QTensor, dtype: str) -> np.ndarray:
    """A tensor as Hugging Face lays it out: linear weights ``[out, in]``, dense."""
    array = np.asarray(dense(entry, jnp.dtype(dtype)))
    return np.ascontiguousarray(array if array.ndim == 1 or name.endswith(TABLES) else array.T)


def check_dtype(dtype: str) -> None:
    """Refuses what transformers has no name for."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not supported; use one of {', '.join(DTYPES)}")


def as_json(found: dict[str, Any]) -> bytes:
    """A JSON file as transformers writes it."""
    return (json.dumps(found, indent=2, sort_keys=True) + "\n").encode()


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of ``save_pretrained``: tokenizer.json, tokenizer_config.json, the chat template."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.inner.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Which tokens begin, end and fill a text; generation stops at any of several ends."""
    ends = list(tokenizer.eos_ids)
    begin = tokenizer.inner.bos_token_id
    found = {"eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": tokenizer.pad_id}
    return found if begin is None else {**found, "bos_token_id": begin}


def _checked(name: str, entry: Array | QTensor, shape: tuple[int, ...]) -> Array | QTensor:
    if entry.shape != shape:
        raise UserError(f"base: {name} is {list(entry.shape)}, its config asks for {list(shape)}; pass its own config")
    return entry
