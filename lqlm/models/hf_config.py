"""The shape of a model from a Hugging Face ``config.json``, and back."""

from collections.abc import Mapping
from typing import Any

from lqlm.errors import UserError
from lqlm.models.config import FAMILIES, ModelConfig, RopeScaling
from lqlm.models.opt import as_opt, from_opt


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Reads a Hugging Face config, with the defaults that transformers gives to a missing key.

    Both spellings of the rotary settings are read: ``rope_theta`` with ``rope_scaling``, and ``rope_parameters`` of
    transformers 5.

    Args:
      config: the decoded ``config.json``.

    Returns:
      The ModelConfig.

    Raises:
      UserError: for a family, activation or rope type that lqlm does not compute, or a size missing or impossible.

    >>> sizes = dict(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> config_from_hf(dict(sizes, model_type="llama", max_position_embeddings=64)).head_dim
    4
    """
    family = _family(config)
    config = from_opt(config) if family == "opt" else config
    heads = _size(config, "num_attention_heads")
    width = _size(config, "hidden_size")
    theta, scaling = _rope(config)
    result = ModelConfig(
        family=family,
        vocab_size=_size(config, "vocab_size"),
        width=width,
        ffn=_size(config, "intermediate_size"),
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads if _llama_without_kv_heads(config) else _size(config, "num_key_value_heads"),
        head_dim=_head_dim(config, family, width, heads),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_norm_eps(config),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
        qk_norm=family == "qwen3",
        max_positions=_size(config, "max_position_embeddings"),
        sliding_window=_sliding_window(config, family),
    )
    _check(config, result)
    return result


def _family(config: Mapping[str, Any]) -> str:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"config: model_type {family!r} is not supported; use a model of {', '.join(FAMILIES)}")
    return family


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config: {key} is {value!r}; it must be a positive whole number")
    return value


def _norm_eps(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps", 1e-6)
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"config: rms_norm_eps is {value!r}; it must be a small positive number")
    return float(value)


def _llama_without_kv_heads(config: Mapping[str, Any]) -> bool:
    # Old Llama configs predate grouped queries; elsewhere transformers' default is some other model's number.
    return config.get("num_key_value_heads") is None and config["model_type"] == "llama"


def _head_dim(config: Mapping[str, Any], family: str, width: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim")
    return 128 if family == "qwen3" and "head_dim" not in config else width // heads


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    new = config.get("rope_parameters") or {}
    old = config.get("rope_scaling") or {}
    theta = new.get("rope_theta", old.get("rope_theta", config.get("rope_theta", 10000.0)))
    for name, settings in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(theta, (int, float)) or any(isinstance(v, dict) for v in settings.values()):
            raise UserError(f"config: {name} differs between layers or has no number rope_theta; it is not supported")
    partial = new.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UserError(f"config: partial_rotary_factor {partial} is not supported; only whole heads are rotated")
    return float(theta), _rope_scaling(config, new or old)


def _rope_scaling(config: Mapping[str, Any], settings: Mapping[str, Any]) -> RopeScaling | None:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise UserError(f"config: rope type {kind!r} is not supported; use a model with default, linear or llama3 rope")
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    for key in needed:
        if not isinstance(settings.get(key), (int, float)) or settings[key] <= 0:
            raise UserError(f"config: rope type {kind!r} needs a positive {key}, got {settings.get(key)!r}")
    if kind == "linear":
        return RopeScaling("linear", float(settings["factor"]))
    original = settings.get("original_max_position_embeddings") or _size(config, "max_position_embeddings")
    factor, low, high = (float(settings[key]) for key in needed)
    return RopeScaling("llama3", factor, low, high, int(original))


def _sliding_window(config: Mapping[str, Any], family: str) -> int | None:
    if family == "mistral":
        window = config.get("sliding_window", 4096)
    else:
        window = config.get("sliding_window", 4096) if _qwen_slides(config, family) else None
    return None if window is None else _size({"sliding_window": window}, "sliding_window")


def _qwen_slides(config: Mapping[str, Any], family: str) -> bool:
    """Whether every layer slides; a mixture would need a window per layer."""
    if family == "llama" or not config.get("use_sliding_window", False):
        return False
    layers = _size(config, "num_hidden_layers")
    first = config.get("max_window_layers", 28)
    kinds = set(config.get("layer_types") or ["sliding_attention" if i >= first else "full" for i in range(layers)])
    if len(kinds) > 1:
        raise UserError(
            "config: layer_types or max_window_layers: a sliding window in some layers only is not supported"
        )
    return kinds == {"sliding_attention"}


def _check(config: Mapping[str, Any], cfg: ModelConfig) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"config: hidden_act {activation!r} is not supported; only silu")
    _check_quantization(config.get("quantization_config"))
    if config.get("mlp_bias", False):
        raise UserError("config: mlp_bias true is not supported; use a model without biases in its feed-forward layers")
    if cfg.heads % cfg.kv_heads:
        raise UserError(f"config: {cfg.heads} attention heads cannot share {cfg.kv_heads} key/value heads evenly")
    if cfg.head_dim % 2 and not cfg.learned_positions:
        raise UserError(f"config: head_dim {cfg.head_dim} is odd; the rotation needs pairs")


def _check_quantization(found: Any) -> None:
    """Of quantized checkpoints only lqlm's own and those of bitsandbytes in 4 bits are read."""
    settings = found if isinstance(found, Mapping) else {}
    if found is None or settings.get("quant_method") == "lqlm":
        return
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        raise UserError("config: quantization_config: LLM.int8 weights are not read; use the 16-bit or a 4-bit model")
    four_bit = settings.get("load_in_4bit", settings.get("_load_in_4bit"))
    if settings.get("quant_method", "bitsandbytes") != "bitsandbytes" or four_bit is not True:
        method = settings.get("quant_method", "unknown")
        raise UserError(
            f"config: quantization_config: weights quantized by {method!r} are not read; use the unquantized model, or "
            "one that bitsandbytes holds in 4 bits"
        )


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "opt": "OPTForCausalLM",
}


def config_to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """Writes a Hugging Face config; the inverse of :func:`config_from_hf`.

    Args:
      cfg: the model's shape.

    Returns:
      What ``config.json`` holds, in the older spelling of the rotary settings, which every transformers reads.

    Raises:
      UserError: for biases or a window that transformers' model of this family does not have.
    """
    if cfg.family == "mistral" and cfg.qkv_bias:
        raise UserError("config: qkv_bias: transformers' mistral has no biases; use family qwen2 or llama")
    if cfg.family == "llama" and cfg.sliding_window is not None:
        raise UserError("config: sliding_window: transformers' llama has none; use family mistral")
    found = {
        "architectures": [_ARCHITECTURES[cfg.family]],
        "model_type": cfg.family,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.ffn,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "rope_theta": cfg.rope_theta,
        "rope_scaling": _rope_to_hf(cfg.rope_scaling),
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "max_position_embeddings": cfg.max_positions,
        **_window_to_hf(cfg),
    }
    if cfg.family == "opt":
        return as_opt(found)
    return found if cfg.family in ("qwen2", "mistral") else {**found, "attention_bias": cfg.qkv_bias}


def _rope_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    found = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        found |= {"original_max_position_embeddings": scaling.original_max_positions}
    return found


def _window_to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if cfg.family == "mistral":
        return {"sliding_window": cfg.sliding_window}
    if cfg.family == "llama" or cfg.sliding_window is None:
        return {}
    return {"use_sliding_window": True, "sliding_window": cfg.sliding_window, "max_window_layers": 0}
