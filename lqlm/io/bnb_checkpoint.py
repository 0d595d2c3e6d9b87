"""Hugging Face directories that bitsandbytes quantized to 4 bits: read as they are, and written.

Their ``config.json`` has a ``quantization_config``; a linear map's ``X.weight`` is bytes, with ``X.weight.absmax`` and
its kin beside it (see :mod:`lqlm.quant.bnb`).  Embedding, head, norms and whatever is listed as skipped are dense.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.io.export import as_hf, check_dtype, entries, write_model
from lqlm.io.packed import PackedWeights
from lqlm.io.safetensors import SafeTensors
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.config import ModelConfig
from lqlm.models.hf_config import config_to_hf
from lqlm.quant.bnb import STATE, from_bnb, is_bnb_key, read_state, to_bnb
from lqlm.quant.qtensor import QTensor, QuantConfig
from lqlm.types import PyTree

_WEIGHT = ".weight"


@dataclasses.dataclass(frozen=True)
class BnbWeights(PackedWeights):
    """An open checkpoint of bitsandbytes; numbers are read when asked for.

    Attributes:
      quantized: the names of the weights that are held in 4 bits.
    """

    quantized: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors, the facts beside quantized weights left out."""
        return frozenset(name for name in self.inner.names if not is_bnb_key(name))

    def packed(self, name: str) -> QTensor | None:
        """A quantized weight as ``[in, out]``, its bytes as they are; None for a dense one."""
        if name not in self.quantized:
            return None
        facts = {key: self.inner.get_packed(full) for key, full in self._keys(name).items()}
        return from_bnb(facts, self.describe(name))

    def formats(self) -> dict[QuantConfig, str]:
        """Each format that occurs, with the first weight that has it."""
        found: dict[QuantConfig, str] = {}
        for name in sorted(self.quantized):
            facts: dict[str, Any] = dict.fromkeys(keys := self._keys(name))
            facts |= {key: self.inner.get_packed(keys[key]) for key in keys if key.startswith(STATE)}
            state = read_state(facts, self.describe(name))
            nested = "nested_blocksize" in state
            extra = (state["nested_blocksize"],) if nested else ()
            found.setdefault(QuantConfig(state["quant_type"], state["blocksize"], nested, *extra), name)
        return found

    def check_format(self, quant: QuantConfig | None) -> None:
        """Refuses a wish for another format than the checkpoint's own; None wishes for nothing."""
        for own, name in self.formats().items():
            if quant is not None and quant != own:
                raise UserError(
                    f"{self.describe(name)} is quantized already, as {_words(own)}, and {_words(quant)} was asked for; "
                    "ask for the same or for none, or start from the unquantized model"
                )

    def _keys(self, name: str) -> dict[str, str]:
        """Key as of :mod:`lqlm.quant.bnb` to name in the file, of one weight and the facts beside it."""
        start = name.removesuffix("weight")
        beside = (full for full in self.inner.names if full == name or full.startswith(name + "."))
        return {full.removeprefix(start): full for full in beside}


def _words(config: QuantConfig) -> str:
    return f"{config.codebook} in blocks of {config.block} {'with' if config.double else 'without'} double quantization"


def open_bnb(weights: SafeTensors) -> BnbWeights | None:
    """Finds what bitsandbytes quantized in a checkpoint.

    Args:
      weights: the open files.

    Returns:
      The BnbWeights, or None if nothing in it is quantized.

    Raises:
      UserError: for weights of LLM.int8.
    """
    for name in sorted(weights.names):
        if name.endswith((".SCB", ".weight_format")):
            raise UserError(f"{weights.describe(name)}: LLM.int8 weights are not read; use the 16-bit or a 4-bit model")
    quantized = frozenset(name.split(f".{STATE}")[0] + _WEIGHT for name in weights.names if f".{STATE}" in name)
    for name in sorted(filter(is_bnb_key, weights.names)):
        owner = name[: name.rindex(".weight.") + len(_WEIGHT)]
        if owner not in quantized or owner not in weights.names:
            missing = owner if owner in quantized else f"{owner}.quant_state.bitsandbytes__nf4 (or fp4)"
            raise UserError(f"{weights.describe(name)} stands alone: {missing} is missing; fetch the checkpoint again")
    return BnbWeights(weights, quantized) if quantized else None


def save_bnb(
    directory: str | os.PathLike[str],
    base: PyTree,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    dtype: str = "bfloat16",
) -> None:
    """Writes a 4-bit model as a directory that ``transformers`` with bitsandbytes loads, without quantizing again.

    It is whole or not at all, and in one file; codes and maxima are written byte for byte.

    Args:
      directory: made; an export of the same files that lies there is replaced, any other file refused.
      base: the base tree; linear maps in nf4 or fp4, of any layers dense ones too.
      config: its shape.
      tokenizer: written beside it; without one the directory holds the weights alone.
      dtype: of what is dense, and in which transformers shall compute.

    Raises:
      UserError: when nothing is quantized, or in a format that bitsandbytes does not read; when the disk is full, or
        the directory holds other files.
    """
    check_dtype(dtype)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, entry in entries(base, config):
            if isinstance(entry, QTensor):
                start = name.removesuffix("weight")
                yield from ((start + key, array) for key, array in to_bnb(entry, name).items())
            else:
                yield name, as_hf(name, entry, dtype)

    settings = {"torch_dtype": dtype, "quantization_config": _quantization_config(base, config, dtype)}
    write_model(directory, {**config_to_hf(config), **settings}, tensors, tokenizer)


def _quantization_config(base: PyTree, config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The settings of ``BitsAndBytesConfig``; modules are skipped by their full names."""
    every = {
        name.removesuffix(_WEIGHT): entry
        for name, entry in entries(base, config)
        if name.endswith(("_proj.weight", "fc1.weight", "fc2.weight"))
    }
    first = next((entry for entry in every.values() if isinstance(entry, QTensor)), None)
    if first is None:
        raise UserError("base: nothing in it is quantized; write it with save_hf, or quantize it to nf4 or fp4 first")
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": first.config.codebook,
        "bnb_4bit_use_double_quant": first.config.double,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["lm_head", *(name for name, w in every.items() if not isinstance(w, QTensor))],
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_threshold": 6.0,
    }
