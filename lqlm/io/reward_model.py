"""Reward models as PEFT directories: adapters, and the head as the module ``score`` of a sequence classifier.

``peft.PeftModel.from_pretrained`` loads them onto ``AutoModelForSequenceClassification`` of the base, with ``num_labels
1`` and the tokenizer's ``pad_token_id``.
"""

import dataclasses
import json
import os
import pathlib

import jax.numpy as jnp

from lqlm.adapters.configs import AdapterConfig, Ia3Config, LoraConfig
from lqlm.errors import UserError
from lqlm.io.disk import recover_directory
from lqlm.io.peft import CONFIG, WEIGHTS, card_of, open_weights, parts_of, read_parts, write_peft
from lqlm.io.peft_config import CLASSIFIER, HEADS, read_config
from lqlm.io.peft_tensors import read, stored
from lqlm.models.config import ModelConfig
from lqlm.types import PyTree

SCORE = "base_model.model.score.weight"


def save_reward_model(
    directory: str | os.PathLike[str],
    adapters_with_score: PyTree,
    adapter_cfg: AdapterConfig,
    model_cfg: ModelConfig,
    base_name: str,
    *,
    initial: PyTree | None = None,
) -> None:
    """Writes adapters and their scalar head, whole or not at all; otherwise as :func:`lqlm.io.peft.save_peft`.

    Args:
        directory: made; an adapter that lies there is replaced, any other file refused.
        adapters_with_score: the adapters' tree with the head under "score"; its bias must be 0, as classifiers of
            ``transformers`` have none.
        adapter_cfg: the one they were made with: LoRA or (IA)^3.
        model_cfg: the base model's shape.
        base_name: of the base model, as ``transformers`` would load it.
        initial: the adapters before training; needed with an init that changes the base.

    Raises:
        UserError: when the head or the adapters have no place there.
    """
    if not isinstance(adapter_cfg, LoraConfig | Ia3Config):
        raise UserError("a reward model is written with LoRA or (IA)^3 only: train it with one of them")
    head = adapters_with_score["score"]
    if float(head["bias"]) != 0.0:
        raise UserError(
            f"reward model: the head's bias is {float(head['bias']):g}, and classifiers have none: train it frozen at 0"
        )
    if head["kernel"].shape != (model_cfg.width,):
        raise UserError(f"reward model: the head is {list(head['kernel'].shape)}, the model's width {model_cfg.width}")
    adapters = {name: tree for name, tree in adapters_with_score.items() if name != "score"}
    tensors, fields, written = parts_of(adapters, adapter_cfg, model_cfg, initial)
    config = {"task_type": CLASSIFIER, "modules_to_save": HEADS, "base_model_name_or_path": base_name}
    tensors[SCORE] = stored(head["kernel"])[None]
    write_peft(directory, tensors, {**fields, **config}, card_of(base_name, written, "text-classification"))


def is_reward_model(directory: str | os.PathLike[str]) -> bool:
    """Whether an adapter's directory holds a head beside the adapters; false where nothing can be read."""
    folder = pathlib.Path(directory)
    recover_directory(folder)
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))["task_type"] == CLASSIFIER
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_reward_model(directory: str | os.PathLike[str], model_cfg: ModelConfig) -> tuple[PyTree, AdapterConfig]:
    """Reads a reward model that PEFT or :func:`save_reward_model` wrote.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        model_cfg: the base model's shape.

    Returns:
        The adapters with the head under "score", float32, as `lqlm.models.heads` takes them, and their config.

    Raises:
        UserError: for a missing or damaged file, an adapter that is no reward model, or shapes that contradict the
            model's; it names the file and the tensor.
    """
    folder = pathlib.Path(directory)
    recover_directory(folder)
    config = read_config(folder / CONFIG, classifier=True)
    weights = open_weights(folder / WEIGHTS)
    kernel = read(weights, SCORE, (1, model_cfg.width), "one score and this model's width")[0]
    rest = {name: tensor for name, tensor in weights.tensors.items() if name != SCORE}
    adapters, adapter_cfg = read_parts(folder / CONFIG, config, dataclasses.replace(weights, tensors=rest), model_cfg)
    return {**adapters, "score": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros((), jnp.float32)}}, adapter_cfg
