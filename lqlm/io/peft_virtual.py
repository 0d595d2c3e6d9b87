"""Tensors of prompt and prefix tuning in PEFT directories: one of them, ``prompt_embeddings``.

Prefix tuning's is ``[tokens, 2 L W]`` with W = K H, the width of a layer's keys: for each virtual token the key of
layer 0, its value, the key of layer 1, and so on.
"""

import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import PrefixConfig, PromptConfig
from lqlm.errors import UserError
from lqlm.io.peft_tensors import CONFIG, check_names, read, stored
from lqlm.io.safetensors import SafeTensors
from lqlm.models.config import ModelConfig
from lqlm.types import PyTree

KEY = "prompt_embeddings"
_WHY = f"num_virtual_tokens of {CONFIG} and this model"


def prompt_tensors(adapters: PyTree, cfg: PromptConfig, model: ModelConfig) -> dict[str, np.ndarray]:
    """The tensor of a prompt-tuning directory.

    Raises:
        UserError: when the adapters contradict the configs.
    """
    _check(adapters, "prompt", {"prompt": (cfg.tokens, model.width)})
    return {KEY: stored(adapters["prompt"])}


def prefix_tensors(adapters: PyTree, cfg: PrefixConfig, model: ModelConfig) -> dict[str, np.ndarray]:
    """The tensor of a prefix-tuning directory.

    Raises:
        UserError: when the adapters contradict the configs.
    """
    shape = (model.layers, cfg.tokens, model.kv_heads * model.head_dim)
    _check(adapters, "prefix", {"k": shape, "v": shape})
    both = np.stack([stored(adapters["prefix"][part]) for part in ("k", "v")], axis=1)  # [L, 2, tokens, W]
    return {KEY: stored(both.transpose(2, 0, 1, 3).reshape(cfg.tokens, -1))}


def _check(adapters: PyTree, kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    if set(adapters) != {kind}:
        raise UserError(f"adapters are of kind {', '.join(adapters)}, their config of {kind} tuning; pass its own")
    parts = adapters if kind == "prompt" else adapters[kind]
    for name, shape in shapes.items():
        if parts[name].shape != shape:
            raise UserError(f"{kind} tuning: {name} is {list(parts[name].shape)}, the configs ask for {list(shape)}")


def read_prompt(weights: SafeTensors, cfg: PromptConfig, model: ModelConfig) -> PyTree:
    """``{"prompt": [tokens, D]}``.

    Raises:
        UserError: for a tensor that is missing, of another shape or model, or not finite.
    """
    check_names(weights, {KEY}, "prompt tuning", model)
    return {"prompt": jnp.asarray(read(weights, KEY, (cfg.tokens, model.width), _WHY))}


def read_prefix(weights: SafeTensors, cfg: PrefixConfig, model: ModelConfig) -> PyTree:
    """``{"prefix": {"k", "v": [L, tokens, K * H]}}``.

    Raises:
        UserError: for a tensor that is missing, of another shape or model, or not finite.
    """
    check_names(weights, {KEY}, "prefix tuning", model)
    width = model.kv_heads * model.head_dim
    flat = read(weights, KEY, (cfg.tokens, 2 * model.layers * width), _WHY)
    k, v = jnp.asarray(flat).reshape(cfg.tokens, model.layers, 2, width).transpose(2, 1, 0, 3)
    return {"prefix": {"k": k, "v": v}}
