"""Adapters as PEFT directories (PEFT 0.21.2): ``adapter_model.safetensors``, ``adapter_config.json``, ``README.md``.

PEFT stores ``lora_A`` as ``[R, in]`` and ``lora_B`` as ``[out, R]``, one of each for every layer and linear map; lqlm
has ``a [L, in, R]`` and ``b [L, R, out]``.  Both scale by ``alpha / rank``.
"""

import json
import os
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lqlm.adapters.lora import LINEARS, Lora, LoraConfig
from lqlm.errors import UserError
from lqlm.io.disk import recover_directory, write_directory
from lqlm.io.safetensors import SafeTensors, open_safetensors, read_json
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors
from lqlm.quant.qtensor import check_finite
from lqlm.types import PyTree

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PEFT_VERSION = "0.21.2"  # whose format this is
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")
# What another value of these would change in the computation is not computed here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "use_dora": (False,),
    "use_rslora": (False,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # the other ones change the base as well
    "layer_replication": (None,),
    "layers_to_transform": (None,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
}


def save_peft(
    directory: str | os.PathLike[str],
    adapters: PyTree,
    lora_cfg: LoraConfig,
    model_cfg: ModelConfig,
    base_name: str,
) -> None:
    """Writes adapters as a directory that ``peft.PeftModel.from_pretrained`` loads, whole or not at all.

    Args:
        directory: made; an adapter that lies there is replaced, any other file refused.
        adapters: as from :func:`lqlm.adapters.lora.init_lora`.
        lora_cfg: the one they were made with; its targets must be those of ``adapters``.
        model_cfg: the base model's shape, against which every factor is checked.
        base_name: of the base model, as ``transformers`` would load it (a hub id or a directory).

    Raises:
        UserError: when adapters do not fit the configs, the disk is full, or the directory holds other files.
    """
    tensors: dict[str, np.ndarray] = {}
    names = _in_order(adapters)
    for name in names:
        lora = adapters["layers"][name]
        _check_lora(name, lora, lora_cfg, model_cfg)
        a, b = np.asarray(lora.a), np.asarray(lora.b)
        for layer in range(model_cfg.layers):
            tensors[_key(name, layer, "A", model_cfg)] = _stored(a[layer])
            tensors[_key(name, layer, "B", model_cfg)] = _stored(b[layer])
    config = _peft_config(lora_cfg, names, base_name)
    files = {
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: safetensors.numpy.save(tensors, metadata={"format": "pt"}),
        CARD: _card(base_name, lora_cfg).encode(),
    }
    write_directory(directory, files)


def load_peft(directory: str | os.PathLike[str], model_cfg: ModelConfig) -> tuple[PyTree, LoraConfig]:
    """Reads a LoRA adapter that PEFT or :func:`save_peft` wrote.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        model_cfg: the base model's shape.

    Returns:
        ``({"layers": {name: Lora(a [L, in, R], b [L, R, out])}}, LoraConfig)``, float32; targets are the names found.

    Raises:
        UserError: for a missing or damaged file, another kind of adapter or of model, or shapes that contradict the
            configs; it names the file and the tensor.
    """
    folder = pathlib.Path(directory)
    recover_directory(folder)
    config = _read_config(folder / CONFIG)
    weights = _open_weights(folder / WEIGHTS)
    names = _targets(weights, model_cfg)
    lora_cfg = _lora_config(folder / CONFIG, config, names)
    return {"layers": {name: _read_lora(weights, name, lora_cfg, model_cfg) for name in names}}, lora_cfg


def _shape(name: str, cfg: ModelConfig) -> tuple[int, int]:
    """(in, out) of a linear map."""
    fan_out, fan_in = layer_tensors(cfg)[name][1]
    return fan_in, fan_out


def _key(name: str, layer: int, factor: str, cfg: ModelConfig) -> str:
    path = layer_tensors(cfg)[name][0].removesuffix(".weight")
    return f"base_model.model.model.layers.{layer}.{path}.lora_{factor}.weight"


def _in_order(adapters: PyTree) -> list[str]:
    for name in adapters["layers"]:
        if name not in LINEARS:
            raise UserError(f"adapter {name!r} is on no linear layer of the model; PEFT has no place for it")
    return [name for name in LINEARS if name in adapters["layers"]]


def _stored(factor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(factor.astype(np.float32).T)


def _check_lora(name: str, lora: Lora, lora_cfg: LoraConfig, model_cfg: ModelConfig) -> None:
    (fan_in, fan_out), rank, layers = _shape(name, model_cfg), lora_cfg.rank, model_cfg.layers
    expected = ((layers, fan_in, rank), (layers, rank, fan_out))
    if (lora.a.shape, lora.b.shape) != expected:
        found = f"{list(lora.a.shape)} and {list(lora.b.shape)}"
        wanted = f"{list(expected[0])} and {list(expected[1])}"
        raise UserError(
            f"adapter {name}: factors are {found}, the configs ask for {wanted}; pass those it was made with"
        )
    if lora.scaling != lora_cfg.scaling:
        raise UserError(f"adapter {name}: scaling is {lora.scaling}, the config's alpha / rank {lora_cfg.scaling}")


def _peft_config(cfg: LoraConfig, targets: list[str], base_name: str) -> dict[str, Any]:
    """The fields that PEFT writes; those left out are null there as well."""
    alpha = int(cfg.alpha) if float(cfg.alpha).is_integer() else cfg.alpha
    return {
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": None,
        "inference_mode": True,
        "r": cfg.rank,
        "lora_alpha": alpha,
        "lora_dropout": cfg.dropout,
        "target_modules": targets,
        "exclude_modules": None,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        "lora_bias": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _card(base_name: str, cfg: LoraConfig) -> str:
    header = [
        "---",
        f"base_model: {json.dumps(base_name)}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags:",
        f"- {json.dumps('base_model:adapter:' + base_name)}",
        "- lora",
        "- transformers",
        "---",
    ]
    body = f"A LoRA adapter (rank {cfg.rank}, alpha {cfg.alpha:g}) for `{base_name}`, trained with lqlm."
    return "\n".join([*header, "", "# LoRA adapter", "", body, ""])


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a PEFT adapter directory needs {CONFIG} and {WEIGHTS}")
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {config.get('peft_type')!r} is not supported; only LORA")
    for name, neutral in _NEUTRAL.items():
        if name in config and config[name] not in neutral:
            raise UserError(f"{path}: {name} = {config[name]!r} is not supported; only {neutral[0]!r}")
    return config


def _lora_config(path: pathlib.Path, config: dict[str, Any], names: tuple[str, ...]) -> LoraConfig:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"{path}: r = {rank!r}; it must be a whole number of at least 1")
    if not isinstance(alpha, int | float) or not isinstance(dropout, int | float):
        raise UserError(f"{path}: lora_alpha = {alpha!r} and lora_dropout = {dropout!r} must be numbers")
    return LoraConfig(rank=rank, alpha=float(alpha), dropout=float(dropout), targets=names, dtype="float32")


def _open_weights(path: pathlib.Path) -> SafeTensors:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; save the adapter with safe_serialization=True (.bin files are not read)"
        )
    return open_safetensors(path)


def _targets(weights: SafeTensors, cfg: ModelConfig) -> tuple[str, ...]:
    """The adapted linear maps, once every key is known to have its place and its partner in every layer."""
    matches = {key: _KEY.fullmatch(key) for key in sorted(weights.names)}
    names = {m[3] for m in matches.values() if m is not None and m[3] in LINEARS}
    expected = {_key(name, layer, factor, cfg) for name in names for layer in range(cfg.layers) for factor in "AB"}
    for key in sorted(weights.names - expected):
        raise UserError(
            f"{weights.describe(key)} has no place in a {cfg.family} model of {cfg.layers} layers with LoRA"
        )
    for key in sorted(expected - weights.names):
        raise UserError(
            f"{weights.describe(key)} is missing; the adapter is incomplete or of a model with fewer layers"
        )
    if not names:
        raise UserError(f"{weights.path}: holds no tensor; save the adapter again")
    return tuple(name for name in LINEARS if name in names)


def _read_lora(weights: SafeTensors, name: str, cfg: LoraConfig, model_cfg: ModelConfig) -> Lora:
    fan_in, fan_out = _shape(name, model_cfg)

    def stack(factor: str, shape: tuple[int, int]) -> np.ndarray:
        keys = [_key(name, layer, factor, model_cfg) for layer in range(model_cfg.layers)]
        return np.stack([_read(weights, key, shape, cfg.rank).T for key in keys])

    a, b = stack("A", (cfg.rank, fan_in)), stack("B", (fan_out, cfg.rank))
    return Lora(jnp.asarray(a), jnp.asarray(b), cfg.scaling, cfg.dropout)


def _read(weights: SafeTensors, key: str, shape: tuple[int, int], rank: int) -> np.ndarray:
    array = np.asarray(weights.get(key), np.float32)
    if array.shape != shape:
        needs = f"rank {rank} of {CONFIG} and this model need {list(shape)}"
        raise UserError(f"{weights.describe(key)} has shape {list(array.shape)}; {needs}")
    check_finite(weights.describe(key), array)
    return array
