"""Adapters as PEFT directories (PEFT 0.21.2): ``adapter_model.safetensors``, ``adapter_config.json``, ``README.md``.

LoRA and its relatives (rsLoRA, DoRA, QA-LoRA, patterns of ranks, biases), (IA)^3, prompt and prefix tuning.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from lqlm.adapters.configs import AdapterConfig, FullConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.adapters.relative import relative_config, relative_to
from lqlm.errors import UserError
from lqlm.io.disk import recover_directory, write_directory
from lqlm.io.peft_config import (
    ia3_config,
    ia3_fields,
    lora_config,
    lora_fields,
    prefix_fields,
    prompt_fields,
    read_config,
    virtual_config,
)
from lqlm.io.peft_linear import ia3_tensors, lora_tensors, read_ia3, read_lora
from lqlm.io.peft_tensors import in_order
from lqlm.io.peft_virtual import prefix_tensors, prompt_tensors, read_prefix, read_prompt
from lqlm.io.safetensors import SafeTensors, open_safetensors
from lqlm.models.config import ModelConfig
from lqlm.types import PyTree

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def save_peft(
    directory: str | os.PathLike[str],
    adapters: PyTree,
    adapter_cfg: AdapterConfig,
    model_cfg: ModelConfig,
    base_name: str,
    *,
    initial: PyTree | None = None,
) -> None:
    """Writes adapters as a directory that ``peft.PeftModel.from_pretrained`` loads, whole or not at all.

    Adapters made by ``pissa``, ``olora`` or ``loftq`` belong to a base that was changed with them.  They are written as
    an ordinary LoRA of twice the rank for the base as it was before (:func:`lqlm.adapters.relative.relative_to`).  That
    is exact where the changed base stayed dense; where it was quantized (always with ``loftq``) no directory can be
    exact: beside the original base the adapter computes the trained model without what quantization had lost.

    Args:
        directory: made; an adapter that lies there is replaced, any other file refused.
        adapters: as from :func:`lqlm.adapters.init.init_adapters`.
        adapter_cfg: the one they were made with; its targets must be those of ``adapters``.
        model_cfg: the base model's shape, against which every factor is checked.
        base_name: of the base model, as ``transformers`` would load it (a hub id or a directory).
        initial: the adapters before training; needed with an init that changes the base.

    Raises:
        UserError: when adapters do not fit the configs, the disk is full, or the directory holds other files.
    """
    tensors, fields, written = parts_of(adapters, adapter_cfg, model_cfg, initial)
    write_peft(directory, tensors, {**fields, "base_model_name_or_path": base_name}, card_of(base_name, written))


def write_peft(
    directory: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], card: str
) -> None:
    """Writes the three files of a PEFT directory, whole or not at all.

    Args:
        directory: made; an adapter that lies there is replaced, any other file refused.
        tensors: by their keys.
        config: the fields of ``adapter_config.json``.
        card: the text of ``README.md``.
    """
    files = {
        CONFIG: (json.dumps(dict(config), indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: safetensors.numpy.save(dict(tensors), metadata={"format": "pt"}),
        CARD: card.encode(),
    }
    write_directory(directory, files)


def parts_of(
    adapters: PyTree, adapter_cfg: AdapterConfig, model_cfg: ModelConfig, initial: PyTree | None
) -> tuple[dict[str, np.ndarray], dict[str, Any], AdapterConfig]:
    """What a directory is made of: tensors, fields, and the config of what is written.

    The arguments are those of :func:`save_peft`.

    Raises:
        UserError: when adapters do not fit the configs.
    """
    if isinstance(adapter_cfg, LoraConfig) and adapter_cfg.decomposes:
        if initial is None:
            raise UserError(
                f"lora.init {adapter_cfg.init!r} changed the base: give save_peft the initial adapters too, "
                "so that it can write what works on the original base"
            )
        adapters, adapter_cfg = relative_to(adapters, initial), relative_config(adapter_cfg)
    if isinstance(adapter_cfg, LoraConfig):
        tensors = lora_tensors(adapters, adapter_cfg, model_cfg)
        fields = lora_fields(adapter_cfg, in_order(adapters), model_cfg)
    elif isinstance(adapter_cfg, Ia3Config):
        tensors = ia3_tensors(adapters, adapter_cfg, model_cfg)
        fields = ia3_fields(adapter_cfg, in_order(adapters), model_cfg)
    elif isinstance(adapter_cfg, PromptConfig):
        tensors, fields = prompt_tensors(adapters, adapter_cfg, model_cfg), prompt_fields(adapter_cfg, model_cfg)
    elif isinstance(adapter_cfg, PrefixConfig):
        tensors, fields = prefix_tensors(adapters, adapter_cfg, model_cfg), prefix_fields(adapter_cfg, model_cfg)
    else:
        assert isinstance(adapter_cfg, FullConfig)
        raise UserError("full training has no adapter: write the model itself with lqlm.io.export.save_hf")
    return tensors, fields, adapter_cfg


def load_peft(directory: str | os.PathLike[str], model_cfg: ModelConfig) -> tuple[PyTree, AdapterConfig]:
    """Reads an adapter that PEFT or :func:`save_peft` wrote.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        model_cfg: the base model's shape.

    Returns:
        Adapters as :func:`lqlm.adapters.init.init_adapters` lays them out, float32, and their config; targets are the
        names found.

    Raises:
        UserError: for a missing or damaged file, another kind of adapter or of model, or shapes that contradict the
            configs; it names the file and the tensor.
    """
    folder = pathlib.Path(directory)
    recover_directory(folder)
    path = folder / CONFIG
    config = read_config(path)
    return read_parts(path, config, open_weights(folder / WEIGHTS), model_cfg)


def read_parts(
    path: pathlib.Path, config: dict[str, Any], weights: SafeTensors, model_cfg: ModelConfig
) -> tuple[PyTree, AdapterConfig]:
    """The adapters that a directory's tensors are.

    Args:
        path: of ``adapter_config.json``, for messages.
        config: its fields.
        weights: the tensors, of the adapters alone.
        model_cfg: the base model's shape.

    Raises:
        UserError: as :func:`load_peft`.
    """
    if config["peft_type"] == "LORA":
        lora_cfg = lora_config(path, config, model_cfg)
        return read_lora(weights, lora_cfg, model_cfg)
    if config["peft_type"] == "IA3":
        return read_ia3(weights, lambda names: ia3_config(path, config, names, model_cfg), model_cfg)
    virtual_cfg = virtual_config(path, config)
    if isinstance(virtual_cfg, PromptConfig):
        return read_prompt(weights, virtual_cfg, model_cfg), virtual_cfg
    return read_prefix(weights, virtual_cfg, model_cfg), virtual_cfg


def open_weights(path: pathlib.Path) -> SafeTensors:
    """The tensors of a PEFT directory."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; save the adapter with safe_serialization=True (.bin files are not read)"
        )
    return open_safetensors(path)


def card_of(base_name: str, cfg: AdapterConfig, task: str = "text-generation") -> str:
    """The text of ``README.md``."""
    kind = _kind(cfg)
    header = [
        "---",
        f"base_model: {json.dumps(base_name)}",
        "library_name: peft",
        f"pipeline_tag: {task}",
        "tags:",
        f"- {json.dumps('base_model:adapter:' + base_name)}",
        *(["- lora"] if isinstance(cfg, LoraConfig) else []),
        "- transformers",
        "---",
    ]
    body = f"Kind: {kind}.  Base: `{base_name}`.  Trained with lqlm."
    return "\n".join([*header, "", "# PEFT adapter", "", body, ""])


def _kind(cfg: AdapterConfig) -> str:
    if isinstance(cfg, LoraConfig):
        names = {"rsLoRA": cfg.rslora, "DoRA": cfg.dora, "QA-LoRA": bool(cfg.group)}
        return f"{'+'.join(n for n, on in names.items() if on) or 'LoRA'}, rank {cfg.rank}, alpha {cfg.alpha:g}"
    if isinstance(cfg, Ia3Config):
        return "(IA)^3"
    assert isinstance(cfg, PromptConfig | PrefixConfig)
    return f"{'prompt' if isinstance(cfg, PromptConfig) else 'prefix'} tuning, {cfg.tokens} virtual tokens"
