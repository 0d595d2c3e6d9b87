"""Models from GGUF files, presented under Hugging Face names, in Hugging Face layout."""

import dataclasses
import math
import mmap
import pathlib
from typing import Any

import numpy as np
from gguf.quants import dequantize

from lqlm.errors import UserError
from lqlm.io.gguf_header import Header, TensorInfo, read_header

TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"


@dataclasses.dataclass(frozen=True)
class GGUFModel:
    """An open GGUF file; numbers are decoded when asked for.

    Attributes:
      path: the file.
      metadata: its key/value pairs, the tokenizer's among them.
      config: the model's sizes in the shape of a Hugging Face ``config.json``.
      tensors: Hugging Face name to place in the file; names that have no Hugging Face name are kept.
    """

    path: pathlib.Path
    metadata: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    _data: mmap.mmap

    @property
    def names(self) -> frozenset[str]:
        """The Hugging Face names of all tensors."""
        return frozenset(self.tensors)

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that hold the weights."""
        return (self.path,)

    def describe(self, name: str) -> str:
        """Where a tensor lies, for messages."""
        return f"{self.path}: tensor {name}"

    def get(self, name: str) -> np.ndarray:
        """Decodes one tensor.

        Args:
          name: a Hugging Face name, such as ``model.layers.0.self_attn.q_proj.weight``.

        Returns:
          float32, a linear layer's weight as ``[out, in]``, its rows in the order of half-split rotation.
        """
        if name not in self.tensors:
            raise UserError(f"{self.describe(name)} is missing; the file is incomplete or of another family")
        array = _decode(self._data, self.tensors[name], self.describe(name))
        heads = self._interleaved_heads(name)
        if heads is None:
            return array
        if len(array) % (2 * heads):
            raise UserError(f"{self.describe(name)}: its {len(array)} rows cannot belong to {heads} heads")
        return unpermute(array, heads)

    def _interleaved_heads(self, name: str) -> int | None:
        # Only the llama architecture rotates neighbouring pairs in GGUF, and so has the rows of q and k permuted.
        if self.config["model_type"] != "llama":
            return None
        kinds = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        return next((self.config[key] for kind, key in kinds.items() if f".{kind}." in name), None)


def read_gguf(path: str | pathlib.Path) -> GGUFModel:
    """Opens a GGUF file and checks its whole header.

    Args:
      path: the file.

    Returns:
      The GGUFModel; no tensor has been decoded yet.

    Raises:
      UserError: if the file is missing, truncated, corrupted, or lacks what a model needs.
    """
    path = pathlib.Path(path)
    data = _map(path)
    header = read_header(data, str(path))
    config = _hf_config(header, data, path)
    tensors = {_hf_name(name): info for name, info in header.tensors.items() if name != ROPE_FACTORS}
    return GGUFModel(path, header.metadata, config, tensors, data)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of q or k from interleaved into half-split rotary order.

    Interleaved rotation turns rows (2i, 2i + 1) of a head together, half-split rotation rows (i, i + H/2).

    Args:
      rows: ``[heads * H, ...]``, a weight or a bias.
      heads: number of heads in it.

    Returns:
      The same shape.

    >>> unpermute(np.arange(8), heads=2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def _map(path: pathlib.Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # mmap says ValueError for an empty file
        raise UserError(f"{path}: cannot be read as GGUF ({error}); check the path") from error


def _decode(data: mmap.mmap, info: TensorInfo, where: str) -> np.ndarray:
    flat = np.frombuffer(data, np.uint8, info.nbytes, info.start)
    rows = flat.reshape(*info.shape[:-1], -1)
    try:
        # Quantized scales of a damaged file may be infinite; convert.py says so by name.
        with np.errstate(all="ignore"):
            return dequantize(rows, info.kind).reshape(info.shape)
    except NotImplementedError as error:
        raise UserError(f"{where}: GGUF type {info.kind.name} cannot be decoded; use another quantization") from error


def _hf_name(name: str) -> str:
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_NAMES:
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return name


def _hf_config(header: Header, data: mmap.mmap, path: pathlib.Path) -> dict[str, Any]:
    """The sizes in the metadata as a Hugging Face config; what is absent there stays absent here."""
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        if name not in header.tensors:
            raise UserError(f"{path}: tensor {name} is missing; only GGUF files of whole language models can be loaded")
    family = header.metadata.get("general.architecture")
    meta = {key.removeprefix(f"{family}."): value for key, value in header.metadata.items()}
    heads = meta.get("attention.head_count")
    head_dim = meta.get("attention.key_length", meta.get("rope.dimension_count"))
    config = {
        "model_type": family,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": meta.get("embedding_length"),
        "intermediate_size": meta.get("feed_forward_length"),
        "num_hidden_layers": meta.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get("attention.head_count_kv", heads),
        "rms_norm_eps": meta.get("attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": meta.get("context_length"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "rope_parameters": _rope_parameters(header, meta, data, path),
    }
    return config if head_dim is None else {**config, "head_dim": head_dim}


def _rope_parameters(header: Header, meta: dict[str, Any], data: mmap.mmap, path: pathlib.Path) -> dict[str, Any]:
    theta = meta.get("rope.freq_base", 10000.0)
    if ROPE_FACTORS in header.tensors:
        factors = _decode(data, header.tensors[ROPE_FACTORS], f"{path}: tensor {ROPE_FACTORS}")
        return {"rope_theta": theta, **_llama3_parameters(factors, theta, path)}
    kind = meta.get("rope.scaling.type", "none")
    factor = meta.get("rope.scaling.factor", meta.get("rope.scale_linear", 1.0))
    return {"rope_theta": theta, "rope_type": "default" if kind == "none" else kind, "factor": factor}


def _llama3_parameters(factors: np.ndarray, theta: float, path: pathlib.Path) -> dict[str, Any]:
    """Finds the scaling that made the stored factors: GGUF keeps these and not the four numbers behind them."""
    factor = round(float(factors.max()), 3)
    found = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,  # of every Llama 3.x; checked just below
    }
    turns = 8192 * theta ** -(np.arange(factors.size) / factors.size) / (2 * math.pi)
    smooth = np.clip((turns - 1.0) / 3.0, 0.0, 1.0)
    expected = 1.0 / ((1.0 - smooth) / factor + smooth)
    if not np.allclose(factors, expected, rtol=1e-3):
        raise UserError(f"{path}: tensor {ROPE_FACTORS} is not the rope scaling of Llama 3; it is not supported")
    return found
