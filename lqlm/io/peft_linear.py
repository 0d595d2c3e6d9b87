"""Tensors of LoRA (with DoRA, biases, patterns, QA-LoRA) and (IA)^3 in PEFT directories.

PEFT stores ``lora_A`` as ``[R, in]`` and ``lora_B`` as ``[out, R]``, one of each for every layer and linear map; lqlm
has ``a [L, in, R]`` and ``b [L, R, out]``.  Where ranks differ between layers PEFT's tensors do, while R here is the
largest and the rest is zero.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from lqlm.adapters.configs import BIASES, Ia3Config, LoraConfig, target_names
from lqlm.adapters.lora import Ia3, Lora
from lqlm.errors import UserError
from lqlm.io.peft_tensors import (
    CONFIG,
    adapted_names,
    bias_key,
    check_names,
    in_order,
    key_of,
    read,
    shape_of,
    stacked,
    stored,
)
from lqlm.io.safetensors import SafeTensors
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors
from lqlm.types import Array, PyTree

A, B, BIAS, MAGNITUDE, IA3 = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "ia3_l"


def lora_tensors(adapters: PyTree, cfg: LoraConfig, model: ModelConfig) -> dict[str, np.ndarray]:
    """The tensors of a LoRA directory by their keys.

    Raises:
        UserError: when the adapters contradict the configs.
    """
    tensors: dict[str, np.ndarray] = {}
    names = in_order(adapters)
    for name in names:
        lora = adapters["layers"][name]
        _check_lora(name, lora, cfg, model)
        a, b = np.asarray(lora.a), np.asarray(lora.b)
        for layer in range(model.layers):
            rank = cfg.rank_at(name, layer)
            tensors[key_of(name, layer, A, model)] = stored(a[layer, :, :rank].T)
            tensors[key_of(name, layer, B, model)] = stored(b[layer, :rank].T)
            if lora.bias is not None:
                tensors[key_of(name, layer, BIAS, model)] = stored(lora.bias[layer])
            if lora.magnitude is not None:
                tensors[key_of(name, layer, MAGNITUDE, model)] = stored(lora.magnitude[layer])
    for bias, values in adapters.get("biases", {}).items():
        tensors |= {bias_key(bias, layer, names, model): stored(values[layer]) for layer in range(model.layers)}
    return tensors


def _check_lora(name: str, lora: Lora, cfg: LoraConfig, model: ModelConfig) -> None:
    if not isinstance(lora, Lora):
        raise UserError(f"adapter {name} is no LoRA, its config is; pass the config it was made with")
    (fan_in, fan_out), layers = shape_of(name, model), model.layers
    ranks, scaling = _ranks(name, cfg, layers), _scaling(name, cfg, layers)
    inputs = fan_in // cfg.group if cfg.group else fan_in
    expected = ((layers, inputs, max(ranks)), (layers, max(ranks), fan_out))
    if (lora.a.shape, lora.b.shape) != expected:
        found = f"{list(lora.a.shape)} and {list(lora.b.shape)}"
        wanted = f"{list(expected[0])} and {list(expected[1])}"
        raise UserError(
            f"adapter {name}: factors are {found}, the configs ask for {wanted}; pass those it was made with"
        )
    own = list(lora.ranks or [lora.a.shape[2]] * layers)
    if own != ranks:
        raise UserError(f"adapter {name}: the layers' ranks are {own}, by its config {ranks}; pass its own config")
    if not np.allclose(lora.scaling, scaling, rtol=1e-6):
        raise UserError(f"adapter {name}: scaling is {lora.scaling}, the config's alpha / rank {scaling}")
    if ((lora.bias is None), (lora.magnitude is None), lora.group) != (not cfg.lora_bias, not cfg.dora, cfg.group):
        raise UserError(f"adapter {name}: lora_bias, dora or group is another than its config's; pass its own config")


def _ranks(name: str, cfg: LoraConfig, layers: int) -> list[int]:
    return [cfg.rank_at(name, layer) for layer in range(layers)]


def _scaling(name: str, cfg: LoraConfig, layers: int) -> float | tuple[float, ...]:
    found = tuple(cfg.scaling_at(name, layer) for layer in range(layers))
    return found[0] if len(set(found)) == 1 else found


def read_lora(weights: SafeTensors, cfg: LoraConfig, model: ModelConfig) -> tuple[PyTree, LoraConfig]:
    """The adapters of a LoRA directory, and its config with the targets found.

    Raises:
        UserError: for a tensor that is missing, of another shape or model, or not finite.
    """
    names = adapted_names(weights, model)
    biases = _biases(weights, names, cfg, model)
    suffixes = [A, B, *([BIAS] if cfg.lora_bias else []), *([MAGNITUDE] if cfg.dora else [])]
    expected = {key_of(name, layer, s, model) for name in names for layer in range(model.layers) for s in suffixes}
    expected |= {bias_key(bias, layer, names, model) for bias in biases for layer in range(model.layers)}
    check_names(weights, expected, "LoRA", model)
    layers = {name: _read_one(weights, name, cfg, model) for name in names}
    trained = {bias: _read_bias(weights, bias, names, model) for bias in biases}
    return {"layers": layers} | ({"biases": trained} if trained else {}), dataclasses.replace(cfg, targets=names)


def _biases(weights: SafeTensors, names: tuple[str, ...], cfg: LoraConfig, model: ModelConfig) -> list[str]:
    """The base's biases that the file must hold; whether a model has one of o_proj only the file tells."""
    has_output = any(bias_key("o_bias", layer, names, model) in weights.names for layer in range(model.layers))
    there = [bias for bias in BIASES.values() if bias in layer_tensors(model, has_output)]
    wanted = {"none": [], "lora_only": [BIASES.get(name, "") for name in names], "all": there}[cfg.bias]
    return [bias for bias in there if bias in wanted]


def _read_bias(weights: SafeTensors, bias: str, names: tuple[str, ...], model: ModelConfig) -> Array:
    shape = layer_tensors(model, True)[bias][1]
    keys = [bias_key(bias, layer, names, model) for layer in range(model.layers)]
    return stacked(read(weights, key, shape, "biases of this model") for key in keys)


def _read_one(weights: SafeTensors, name: str, cfg: LoraConfig, model: ModelConfig) -> Lora:
    (fan_in, fan_out), layers = shape_of(name, model), range(model.layers)
    if cfg.group and fan_in % cfg.group:
        raise UserError(f"{weights.path}: qalora_group_size {cfg.group} does not divide the {fan_in} inputs of {name}")
    inputs, ranks = fan_in // cfg.group if cfg.group else fan_in, _ranks(name, cfg, model.layers)

    def factor(suffix: str, layer: int, shape: tuple[int, int]) -> np.ndarray:
        why = f"rank {ranks[layer]} of {CONFIG} and this model"
        return read(weights, key_of(name, layer, suffix, model), shape, why).T

    def vector(suffix: str) -> Array:
        return stacked(
            read(weights, key_of(name, layer, suffix, model), (fan_out,), "this model's outputs") for layer in layers
        )

    a = [_widened(factor(A, layer, (ranks[layer], inputs)), 1, max(ranks)) for layer in layers]
    b = [_widened(factor(B, layer, (fan_out, ranks[layer])), 0, max(ranks)) for layer in layers]
    return Lora(
        stacked(a),
        stacked(b),
        _scaling(name, cfg, model.layers),
        cfg.dropout,
        cfg.group,
        None if len(set(ranks)) == 1 else tuple(ranks),
        vector(BIAS) if cfg.lora_bias else None,
        vector(MAGNITUDE) if cfg.dora else None,
    )


def _widened(factor: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """The factor with zeros beyond its own rank."""
    width = [(0, 0), (0, 0)]
    width[axis] = (0, rank - factor.shape[axis])
    return np.pad(factor, width)


def ia3_tensors(adapters: PyTree, cfg: Ia3Config, model: ModelConfig) -> dict[str, np.ndarray]:
    """The tensors of an (IA)^3 directory by their keys: a row for scaled inputs, a column for scaled outputs.

    Raises:
        UserError: when the adapters contradict the configs.
    """
    tensors: dict[str, np.ndarray] = {}
    names = in_order(adapters)
    if set(names) != set(target_names(cfg.targets)) & set(layer_tensors(model)):
        raise UserError(f"adapters are of {', '.join(names)}, the config's targets are others; pass its own config")
    for name in names:
        ia3 = adapters["layers"][name]
        shape = _ia3_shape(name, cfg, model)
        if not isinstance(ia3, Ia3) or ia3.on_input != (name in cfg.feedforward):
            raise UserError(f"adapter {name}: not what its config says (feedforward); pass the config it was made with")
        if ia3.scale.shape != (model.layers, shape[0] * shape[1]):
            raise UserError(f"adapter {name}: factors are {list(ia3.scale.shape)}, the model's shape is {list(shape)}")
        for layer in range(model.layers):
            tensors[key_of(name, layer, IA3, model)] = stored(ia3.scale[layer]).reshape(shape)
    return tensors


def _ia3_shape(name: str, cfg: Ia3Config, model: ModelConfig) -> tuple[int, int]:
    fan_in, fan_out = shape_of(name, model)
    return (1, fan_in) if name in cfg.feedforward else (fan_out, 1)


def read_ia3(
    weights: SafeTensors, config: Callable[[tuple[str, ...]], Ia3Config], model: ModelConfig
) -> tuple[PyTree, Ia3Config]:
    """The adapters of an (IA)^3 directory, and its config, which ``config`` makes of the names found.

    Raises:
        UserError: for a tensor that is missing, of another shape or model, or not finite.
    """
    names = adapted_names(weights, model)
    expected = {key_of(name, layer, IA3, model) for name in names for layer in range(model.layers)}
    check_names(weights, expected, "(IA)^3", model)
    cfg = config(names)

    def one(name: str) -> Ia3:
        why = f"feedforward_modules of {CONFIG} and this model"
        keys = [key_of(name, layer, IA3, model) for layer in range(model.layers)]
        rows = (read(weights, key, _ia3_shape(name, cfg, model), why).reshape(-1) for key in keys)
        return Ia3(stacked(rows), name in cfg.feedforward)

    return {"layers": {name: one(name) for name in names}}, cfg
