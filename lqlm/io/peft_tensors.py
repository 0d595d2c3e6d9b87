"""Keys and shapes of tensors in PEFT directories, and reading them with every check."""

import re
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import BIASES, LINEARS, linears_of
from lqlm.errors import UserError
from lqlm.io.safetensors import SafeTensors
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, root_of
from lqlm.quant.qtensor import check_finite
from lqlm.types import Array, PyTree

CONFIG = "adapter_config.json"
_KEY = r"base_model\.model\.{}\.layers\.\d+\.(\S+?)\.(?:lora_|ia3_l)\S*"


def shape_of(name: str, cfg: ModelConfig) -> tuple[int, int]:
    """(in, out) of a linear map."""
    fan_out, fan_in = layer_tensors(cfg)[name][1]
    return fan_in, fan_out


def module_of(name: str, layer: int, cfg: ModelConfig) -> str:
    """The name of a linear map in Hugging Face's model."""
    return f"{root_of(cfg)}.layers.{layer}.{_inner(name, cfg)}"


def _inner(name: str, cfg: ModelConfig) -> str:
    return layer_tensors(cfg)[name][0].removesuffix(".weight")


def target_of(name: str, cfg: ModelConfig) -> str:
    """The last part of that name, by which PEFT's config names targets."""
    return _inner(name, cfg).rpartition(".")[2]


def key_of(name: str, layer: int, suffix: str, cfg: ModelConfig) -> str:
    """The key of a tensor of one linear map, such as ``lora_A.weight`` or ``ia3_l``."""
    return f"base_model.model.{module_of(name, layer, cfg)}.{suffix}"


def bias_key(bias: str, layer: int, adapted: Iterable[str], cfg: ModelConfig) -> str:
    """The key of a trained bias of the base; PEFT's adapted maps hold theirs one level deeper."""
    name = next(linear for linear, its in BIASES.items() if its == bias)
    return key_of(name, layer, "base_layer.bias" if name in set(adapted) else "bias", cfg)


def in_order(adapters: PyTree) -> list[str]:
    """The adapted linear maps of a tree, in the model's order."""
    if not isinstance(adapters.get("layers"), dict):
        raise UserError(f"adapters are of kind {', '.join(adapters)}, their config is of linear layers; pass its own")
    for name in adapters["layers"]:
        if name not in LINEARS:
            raise UserError(f"adapter {name!r} is on no linear layer of the model; PEFT has no place for it")
    return [name for name in LINEARS if name in adapters["layers"]]


def adapted_names(weights: SafeTensors, cfg: ModelConfig) -> tuple[str, ...]:
    """The linear maps that a file adapts, in the model's order."""
    matches = [re.fullmatch(_KEY.format(re.escape(root_of(cfg))), key) for key in weights.names]
    found = {m[1] for m in matches if m is not None}
    names = {name for name in linears_of(layer_tensors(cfg)) if _inner(name, cfg) in found}
    if not weights.names:
        raise UserError(f"{weights.path}: holds no tensor; save the adapter again")
    return tuple(name for name in LINEARS if name in names)


def check_names(weights: SafeTensors, expected: set[str], kind: str, cfg: ModelConfig) -> None:
    """Refuses a file that holds less or more than what belongs to the adapter."""
    for key in sorted(weights.names - expected):
        raise UserError(
            f"{weights.describe(key)} has no place in a {cfg.family} model of {cfg.layers} layers with {kind}"
        )
    for key in sorted(expected - weights.names):
        raise UserError(
            f"{weights.describe(key)} is missing; the adapter is incomplete or of a model with fewer layers"
        )


def read(weights: SafeTensors, key: str, shape: tuple[int, ...], why: str) -> np.ndarray:
    """One tensor in float32, of this shape and finite; ``why`` says what asks for the shape."""
    array = np.asarray(weights.get(key), np.float32)
    if array.shape != shape:
        raise UserError(f"{weights.describe(key)} has shape {list(array.shape)}; {why} need {list(shape)}")
    check_finite(weights.describe(key), array)
    return array


def stored(array: Array | np.ndarray) -> np.ndarray:
    """An array as PEFT keeps adapters: float32, contiguous."""
    return np.ascontiguousarray(np.asarray(array).astype(np.float32))


def stacked(arrays: Iterable[np.ndarray]) -> Array:
    """The arrays of all layers as one."""
    return jnp.asarray(np.stack(list(arrays)))
