"""Models as GGUF files that llama.cpp loads: float32, float16 or Q8_0 tensors, and the tokenizer in the metadata."""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np

from lqlm.errors import UserError
from lqlm.io.disk import write_streamed
from lqlm.io.export import TABLES, as_hf, entries
from lqlm.io.gguf import BLOCK_NAMES, ROPE_FACTORS, TOP_NAMES
from lqlm.io.gguf_tokenizer import pre_tokenizer
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.config import ModelConfig
from lqlm.quant.qtensor import QTensor
from lqlm.types import Array, PyTree

_KINDS = {"F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16}
_KINDS["Q8_0"] = gguf.GGMLQuantizationType.Q8_0
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
_Q8_BLOCK = 32
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def save_gguf(
    path: str | os.PathLike[str],
    base: PyTree,
    config: ModelConfig,
    tokenizer: Tokenizer,
    kind: str = "F16",
    name: str = "model",
) -> None:
    """Writes a model as one GGUF file, whole or not at all, one tensor in memory at a time.

    What is quantized is dequantized first.  Vectors (norms, biases) stay float32, and so do matrices whose rows are no
    multiple of 32 with ``Q8_0``.  A mistral without window is written as the llama that it is to llama.cpp.

    Args:
      path: of the file; an older one is replaced.
      base: the base tree, its linear maps dense, quantized or mixed.
      config: its shape.
      tokenizer: byte-level BPE with a splitting rule that GGUF has a name for.
      kind: ``F32``, ``F16`` or ``Q8_0``, of the matrices.
      name: the model's name in the metadata.

    Raises:
      UserError: for what GGUF cannot say of the model or tokenizer, or when the disk is full.
    """
    if kind not in _KINDS:
        raise UserError(f"GGUF kind {kind!r} is not written; use one of {', '.join(_KINDS)}")
    arch = _architecture(config)
    vocabulary = _vocabulary(tokenizer, config.vocab_size)

    def write(beside: pathlib.Path) -> None:
        writer = gguf.GGUFWriter(beside, arch)
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[kind])
        _add_sizes(writer, arch, config)
        for key, value in vocabulary.items():
            _add(writer, f"tokenizer.{key}", value)
        _write_tensors(writer, base, config, kind)

    write_streamed(path, write)


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of q or k from half-split into interleaved rotary order; undoes :func:`lqlm.io.gguf.unpermute`.

    Args:
      rows: ``[heads * H, ...]``, a weight or a bias.
      heads: number of heads in it.

    Returns:
      The same shape.

    >>> permute(np.array([0, 2, 1, 3, 4, 6, 5, 7]), heads=2).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _architecture(cfg: ModelConfig) -> str:
    if cfg.family == "opt":
        raise UserError("config: model_type 'opt': GGUF has no architecture for it; write it with save_hf")
    if cfg.sliding_window is not None:
        raise UserError(f"config: sliding_window {cfg.sliding_window}: GGUF has no place for it in a {cfg.family}")
    return "llama" if cfg.family == "mistral" else cfg.family


def _add_sizes(writer: gguf.GGUFWriter, arch: str, cfg: ModelConfig) -> None:
    sizes: dict[str, Any] = {
        "block_count": cfg.layers,
        "context_length": cfg.max_positions,
        "embedding_length": cfg.width,
        "feed_forward_length": cfg.ffn,
        "attention.head_count": cfg.heads,
        "attention.head_count_kv": cfg.kv_heads,
        "attention.key_length": cfg.head_dim,
        "attention.value_length": cfg.head_dim,
        "rope.dimension_count": cfg.head_dim,
        "vocab_size": cfg.vocab_size,
        "attention.layer_norm_rms_epsilon": float(cfg.norm_eps),
        "rope.freq_base": float(cfg.rope_theta),
    }
    if cfg.rope_scaling is not None and cfg.rope_scaling.kind == "linear":
        sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(cfg.rope_scaling.factor)}
    for key, value in sizes.items():
        _add(writer, f"{arch}.{key}", value)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _write_tensors(writer: gguf.GGUFWriter, base: PyTree, cfg: ModelConfig, kind: str) -> None:
    """Names and shapes first, since the header precedes the numbers; then one tensor after the other."""
    factors = _rope_factors(cfg)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for name, entry in _written(base, cfg):
        _announce(writer, _gguf_name(name), _shape(name, entry), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name, entry in _written(base, cfg):
        array = _permuted(name, as_hf(name, entry, "float32"), cfg)
        writer.write_tensor_data(gguf.quants.quantize(array, _kind_of(array.shape, kind)))
    writer.close()


def _written(base: PyTree, cfg: ModelConfig) -> Iterator[tuple[str, Array | QTensor]]:
    """What the base itself holds, without the zero biases of o_proj that transformers wants."""
    for name, entry in entries(base, cfg):
        if "o_bias" in base["layers"] or not name.endswith("o_proj.bias"):
            yield name, entry


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: str) -> None:
    raw = _kind_of(shape, kind)
    dtype = np.dtype({"F32": np.float32, "F16": np.float16}.get(raw.name, np.uint8))
    stored = shape if dtype != np.uint8 else gguf.quant_shape_to_byte_shape(shape, raw)
    writer.add_tensor_info(name, stored, dtype, int(np.prod(stored)) * dtype.itemsize, raw)


def _shape(name: str, entry: Array | QTensor) -> tuple[int, ...]:
    return entry.shape if name.endswith(TABLES) else entry.shape[::-1]


def _kind_of(shape: tuple[int, ...], kind: str) -> gguf.GGMLQuantizationType:
    ragged = kind == "Q8_0" and shape[-1] % _Q8_BLOCK
    return _KINDS["F32" if len(shape) == 1 or ragged else kind]


def _gguf_name(name: str) -> str:
    for ours, theirs in TOP_NAMES.items():
        if theirs == name:
            return ours
    _, _, layer, *middle, last = name.split(".")
    ours = next(ours for ours, theirs in BLOCK_NAMES.items() if theirs == ".".join(middle))
    return f"blk.{layer}.{ours}.{last}"


def _permuted(name: str, array: np.ndarray, cfg: ModelConfig) -> np.ndarray:
    heads = {"q_proj": cfg.heads, "k_proj": cfg.kv_heads}.get(name.split(".")[-2])
    return array if heads is None or _architecture(cfg) != "llama" else permute(array, heads)


def _rope_factors(cfg: ModelConfig) -> np.ndarray | None:
    """What each frequency is divided by in Llama 3, see :class:`lqlm.models.config.RopeScaling`."""
    scaling = cfg.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    half = cfg.head_dim // 2
    turns = scaling.original_max_positions * cfg.rope_theta ** -(np.arange(half) / half) / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling.factor + smooth)).astype(np.float32)


def _vocabulary(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The metadata below ``tokenizer.``; tokens fill up to the model's rows with unused ones."""
    inner = tokenizer.inner
    found = json.loads(inner.backend_tokenizer.to_str())
    if found["model"]["type"] != "BPE":
        raise UserError(f"tokenizer: {found['model']['type']} is not written to GGUF; only byte-level BPE is")
    tokens, types = _tokens(found, rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found["model"]["merges"]]
    begins = inner.bos_token_id is not None and inner("a").input_ids[:1] == [inner.bos_token_id]
    fields = {
        "ggml.model": "gpt2",
        "ggml.pre": _splitting_rule(found["pre_tokenizer"]),
        "ggml.tokens": tokens,
        "ggml.token_type": types,
        "ggml.merges": merges or None,
        "ggml.eos_token_id": tokenizer.eos_ids[0],
        "ggml.eot_token_id": tokenizer.eos_ids[1] if len(tokenizer.eos_ids) > 1 else None,
        "ggml.bos_token_id": inner.bos_token_id,
        "ggml.padding_token_id": tokenizer.pad_id,
        "ggml.add_bos_token": begins,
        "chat_template": inner.chat_template,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _tokens(found: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [_UNUSED] * rows
    for token, i in found["model"]["vocab"].items():
        tokens[i], types[i] = token, _NORMAL
    for added in found["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    return tokens, types


def _splitting_rule(found: dict[str, Any] | None) -> str:
    """GGUF's name of the rule by which a text is split before the merges."""
    for name in ("smollm", "qwen2", "llama-bpe", "gpt-2"):
        if _plain(json.loads(pre_tokenizer(name).__getstate__())) == _plain(found):
            return name
    raise UserError("tokenizer: GGUF has no name for its splitting rule; write a Hugging Face directory instead")


def _plain(rule: Any) -> Any:
    """A rule without what changes no token: offsets, and the default of an absent key."""
    if isinstance(rule, dict):
        return {key: _plain(value) for key, value in rule.items() if key not in ("trim_offsets", "add_prefix_space")}
    return [_plain(each) for each in rule] if isinstance(rule, list) else rule
