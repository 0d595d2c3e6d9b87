"""``adapter_config.json``: PEFT's fields from a config, and a config from PEFT's fields.

Fields that would change the computation in a way that is not computed here are refused, not left out.
"""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from lqlm.adapters.configs import Ia3Config, LoraConfig, PrefixConfig, PromptConfig, module_name
from lqlm.errors import UserError
from lqlm.io.peft_tensors import module_of, target_of
from lqlm.io.safetensors import read_json
from lqlm.models.config import ModelConfig

PEFT_VERSION = "0.21.2"  # whose format this is
TYPES = ("LORA", "IA3", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
# What another value of these would change in the computation is not computed here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", "lora_only", "all"),
    "fan_in_fan_out": (False,),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    # Of the others the base is changed as well; PEFT's path_initial_model_for_weight_conversion makes it plain LoRA.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "layer_replication": (None,),
    "layers_to_transform": (None,),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "num_transformer_submodules": (1,),
}
Values = tuple[tuple[str, Any], ...]


CLASSIFIER = "SEQ_CLS"
HEADS = ["classifier", "score"]  # the names that PEFT gives to the heads of sequence classifiers


def read_config(path: pathlib.Path, *, classifier: bool = False) -> dict[str, Any]:
    """The fields of ``adapter_config.json``, known to be of a kind that is computed here.

    Args:
        path: of the file.
        classifier: whether it must be, or must not be, of a sequence classifier with a head of its own.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a PEFT adapter directory needs {path.name} and its weights")
    config = read_json(path)
    if config.get("peft_type") not in TYPES:
        raise UserError(f"{path}: peft_type {config.get('peft_type')!r} is not supported; only {', '.join(TYPES)}")
    is_classifier = config.get("task_type") == CLASSIFIER
    if is_classifier != classifier:
        what = "is a reward model: read it with lqlm.io.reward_model.load_reward_model"
        other = f"is no reward model (task_type {config.get('task_type')!r}): read it with lqlm.io.peft.load_peft"
        raise UserError(f"{path}: {what if is_classifier else other}")
    for name, neutral in _NEUTRAL.items():
        if classifier and name == "modules_to_save" and set(config.get(name) or ()) - set(HEADS) == set():
            continue
        if name in config and config[name] not in neutral:
            raise UserError(f"{path}: {name} = {config[name]!r} is not supported; only {neutral[0]!r}")
    return config


def lora_fields(cfg: LoraConfig, targets: list[str], model: ModelConfig) -> dict[str, Any]:
    """The fields that PEFT writes for LoRA; those left out are null there as well."""
    layers = model.layers
    _check_patterns("lora", cfg, model)
    gaussian = cfg.init == "gaussian" and not cfg.lora_bias  # which PEFT does not allow together
    return {
        **_common("LORA"),
        "r": cfg.rank,
        "lora_alpha": _number(cfg.alpha),
        "lora_dropout": cfg.dropout,
        "target_modules": [target_of(name, model) for name in targets],
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": _pattern(cfg.rank_pattern, cfg.rank_at, cfg.rank, targets, layers),
        "alpha_pattern": _pattern(cfg.alpha_pattern, cfg.alpha_at, cfg.alpha, targets, layers),
        "bias": cfg.bias,
        "lora_bias": cfg.lora_bias,
        "fan_in_fan_out": False,
        "init_lora_weights": "gaussian" if gaussian else True,
        "use_rslora": cfg.rslora,
        "use_dora": cfg.dora,
        "use_qalora": bool(cfg.group),
        "qalora_group_size": cfg.group or 16,
    }


def _check_patterns(where: str, cfg: LoraConfig, model: ModelConfig) -> None:
    """Refuse patterns that would match nothing."""
    if model.family == "opt" and (cfg.rank_pattern or cfg.alpha_pattern):
        raise UserError(
            f"{where}: rank_pattern, alpha_pattern: an OPT adapter has none here, since patterns are matched with the "
            "names that modules have in Llama; write one rank and one alpha"
        )


def _common(kind: str) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "peft_version": PEFT_VERSION,
        "task_type": "CAUSAL_LM",
        "revision": None,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _pattern(
    given: Values, at: Callable[[str, int], float], default: float, targets: Iterable[str], layers: int
) -> dict[str, float]:
    """Patterns as they were given where the order of a file (sorted) reads the same, else one for each module."""
    places = [(name, layer) for name in targets for layer in range(layers)]
    found = {module_name(*place): at(*place) for place in places}
    ordered = tuple(sorted(dict(given).items()))
    same = all(_match(ordered, module, default) == value for module, value in found.items())
    pairs = dict(given) if same else {re.escape(name): v for name, v in found.items() if v != default}
    return {pattern: _number(value) for pattern, value in pairs.items()}


def _match(pairs: Values, module: str, default: float) -> float:
    return next((value for pattern, value in pairs if re.match(rf"(.*\.)?({pattern})$", module)), default)


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def lora_config(path: pathlib.Path, config: dict[str, Any], model: ModelConfig) -> LoraConfig:
    """The config of a LoRA directory, its targets still to be found in the weights."""
    found = _lora_config(path, config)
    _check_patterns(str(path), found, model)
    return found


def _lora_config(path: pathlib.Path, config: dict[str, Any]) -> LoraConfig:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"{path}: r = {rank!r}; it must be a whole number of at least 1")
    if not isinstance(alpha, int | float) or not isinstance(dropout, int | float):
        raise UserError(f"{path}: lora_alpha = {alpha!r} and lora_dropout = {dropout!r} must be numbers")
    group = config.get("qalora_group_size", 16) if config.get("use_qalora") else 0
    if not isinstance(group, int) or (config.get("use_qalora") and group < 1):
        raise UserError(f"{path}: qalora_group_size = {group!r}; it must be a whole number of at least 1")
    try:
        return LoraConfig(
            rank=rank,
            alpha=float(alpha),
            dropout=float(dropout),
            rslora=bool(config.get("use_rslora", False)),
            dora=bool(config.get("use_dora", False)),
            init="gaussian" if config.get("init_lora_weights") == "gaussian" else "kaiming",
            rank_pattern=tuple((p, int(v)) for p, v in _pairs(path, config, "rank_pattern", int)),
            alpha_pattern=tuple((p, float(v)) for p, v in _pairs(path, config, "alpha_pattern", (int, float))),
            bias=config.get("bias", "none"),
            lora_bias=bool(config.get("lora_bias", False)),
            group=group,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _pairs(path: pathlib.Path, config: dict[str, Any], field: str, kinds: Any) -> Values:
    found = config.get(field) or {}
    wrong = not isinstance(found, dict) or not all(isinstance(v, kinds) and v > 0 for v in found.values())
    if wrong:
        raise UserError(f"{path}: {field} = {found!r}; it must be an object of numbers above 0")
    return tuple(found.items())


def ia3_fields(cfg: Ia3Config, targets: list[str], model: ModelConfig) -> dict[str, Any]:
    """The fields that PEFT writes for (IA)^3."""
    return {
        **_common("IA3"),
        "target_modules": [target_of(name, model) for name in targets],
        "exclude_modules": None,
        "feedforward_modules": [target_of(name, model) for name in targets if name in cfg.feedforward],
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
    }


def ia3_config(path: pathlib.Path, config: dict[str, Any], names: tuple[str, ...], model: ModelConfig) -> Ia3Config:
    """The config of an (IA)^3 directory whose weights adapt ``names``; PEFT's rule says which scale the input."""
    given = config.get("feedforward_modules") or []

    def on_input(module: str) -> bool:
        if isinstance(given, str):
            return re.fullmatch(given, module) is not None
        return any(module.endswith(str(end)) for end in given)

    found = {name: {on_input(module_of(name, layer, model)) for layer in range(model.layers)} for name in names}
    for name, kinds in found.items():
        if len(kinds) > 1:
            raise UserError(f"{path}: feedforward_modules = {given!r} is of some layers' {name} only; name all or none")
    return Ia3Config(targets=names, feedforward=tuple(name for name in names if True in found[name]))


def prompt_fields(cfg: PromptConfig, model: ModelConfig) -> dict[str, Any]:
    """The fields that PEFT writes for prompt tuning."""
    return {
        **_common("PROMPT_TUNING"),
        **_virtual(cfg.tokens, model.width, model.heads, model.layers),
        "prompt_tuning_init": "RANDOM" if cfg.init == "random" else "SAMPLE_VOCAB",
        "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None,
        "tokenizer_kwargs": None,
    }


def prefix_fields(cfg: PrefixConfig, model: ModelConfig) -> dict[str, Any]:
    """The fields that PEFT writes for prefix tuning; its heads are those of keys and values."""
    width = model.kv_heads * model.head_dim
    return {
        **_common("PREFIX_TUNING"),
        **_virtual(cfg.tokens, width, model.kv_heads, model.layers),
        "encoder_hidden_size": width,
        "prefix_projection": False,
        "init_weights": None,
    }


def _virtual(tokens: int, width: int, heads: int, layers: int) -> dict[str, int]:
    return {
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
    }


def virtual_config(path: pathlib.Path, config: dict[str, Any]) -> PromptConfig | PrefixConfig:
    """The config of prompt tuning (or p-tuning, of which PEFT saves the prompt alone), or of prefix tuning."""
    tokens = config.get("num_virtual_tokens")
    if not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"{path}: num_virtual_tokens = {tokens!r}; it must be a whole number of at least 1")
    if config["peft_type"] == "PREFIX_TUNING":
        return PrefixConfig(tokens=tokens)
    init = config.get("prompt_tuning_init", "RANDOM")
    return PromptConfig(tokens=tokens, init="random" if init == "RANDOM" else "vocabulary")
