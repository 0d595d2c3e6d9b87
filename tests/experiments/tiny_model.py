"""A random Llama of 2 layers as a Hugging Face directory, and the smallest runs of GRPO and SFT on it."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.grpo.settings import GRPOExperiment, RunSettings
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from experiments.sft.settings import DataSettings, ScratchSettings, SFTExperiment
from experiments.sft.settings import RunSettings as SFTRunSettings
from lqlm.adapters.configs import FullConfig, LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.records import InstructionConfig

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Byte-level names of newline, space and the printable characters: a token each, no merges.
CHARACTERS = ("\u010a", "\u0120", *map(chr, range(33, 127)))
VOCABULARY = len(SPECIAL) + len(CHARACTERS)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role[0] }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>a\n{% endif %}"
)
SIZES = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def save_model(folder: pathlib.Path, seed: int = 0, **sizes: int) -> pathlib.Path:
    """Write config, weights and tokenizer; ``sizes`` replace keys of config.json."""
    config = SIZES | sizes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors(config, np.random.default_rng(seed)), folder / "model.safetensors")
    save_tokenizer(folder)
    return folder


def tensors(config: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights under Hugging Face names, ``[out, in]``."""
    width, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    linears = {
        "self_attn.q_proj": (q, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, q),
        "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width),
        "mlp.down_proj": (width, ffn),
    }
    ones = np.ones(width, np.float32)
    found = {"model.norm.weight": ones, "model.embed_tokens.weight": _normal(rng, (config["vocab_size"], width), 0.1)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        found |= {prefix + f"{norm}_layernorm.weight": ones for norm in ("input", "post_attention")}
        found |= {prefix + f"{name}.weight": _normal(rng, shape, shape[1] ** -0.5) for name, shape in linears.items()}
    return found


def _normal(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def save_tokenizer(folder: pathlib.Path, extra: int = 0) -> None:
    """Write tokenizer.json and tokenizer_config.json; ``extra`` more tokens than the model has rows."""
    names = (*SPECIAL, *CHARACTERS, *(f"[{i}]" for i in range(extra)))
    built = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    built.add_special_tokens(list(SPECIAL))
    inner = PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    inner.save_pretrained(folder)


def tiny(model: pathlib.Path, workdir: pathlib.Path, **run: object) -> GRPOExperiment:
    """The smallest run that meets everything: two updates, micro-batches, a divergence, prompts of varying lengths."""
    small = {"steps": 4, "prompts": 2, "group": 4, "updates": 2, "micro_batches": 2, "remat": "full"}
    often = {"eval_every": 2, "eval_batch": 2, "checkpoint_every": 2, "samples": 2, "logprob_chunk": 8}
    return GRPOExperiment(
        workdir=str(workdir),
        task=ArithmeticConfig(operands=(0, 40), train=32, heldout=3, template="{expression}="),
        rewards={"digits": RewardSettings("tests.experiments.rewards.digits", 2.0)},
        model=ModelSettings(source=str(model)),
        adapter=LoraConfig(rank=4, alpha=8.0),
        sampling=SamplingConfig(max_new_tokens=6),
        grpo=GRPOConfig(beta=0.02),
        optim=OptimConfig(learning_rate=5e-3),
        run=RunSettings(**(small | often | run)),  # type: ignore[arg-type]
    )


def save_records(file: pathlib.Path, count: int = 40) -> pathlib.Path:
    """Sums of one-digit numbers as prompts and completions of varying lengths."""
    sums = [(a, 7 * a % 10) for a in range(count)]
    lines = [json.dumps({"prompt": f"{a}+{b}=", "completion": f"{a + b}" + "!" * (a % 4)}) for a, b in sums]
    file.write_text("\n".join(lines) + "\n")
    return file


def tiny_sft(model: pathlib.Path, data: pathlib.Path, workdir: pathlib.Path, **run: object) -> SFTExperiment:
    """The smallest run that meets everything: packed rows, micro-batches, dropout, completions of held-out prompts."""
    small = {"steps": 4, "rows": 4, "micro_batches": 2, "remat": "full", "logprob_chunk": 16, "length": 32}
    often = {"eval_every": 2, "eval_batch": 2, "checkpoint_every": 2, "samples": 2, "generate": 3, "new_tokens": 4}
    return SFTExperiment(
        workdir=str(workdir),
        model=ModelSettings(source=str(model)),
        data=DataSettings(source=str(data), heldout=8),
        text=InstructionConfig(max_length=24),
        adapter=LoraConfig(rank=4, alpha=8.0, dropout=0.1),
        optim=OptimConfig(learning_rate=5e-3),
        run=SFTRunSettings(**(small | often | run)),  # type: ignore[arg-type]
    )


def tiny_scratch(data: pathlib.Path | str, workdir: pathlib.Path, **run: object) -> SFTExperiment:
    """The smallest pretraining: a model of 2 layers and a tokenizer of 300 tokens, with patience."""
    small = {"steps": 6, "rows": 4, "eval_every": 1, "eval_batch": 4, "checkpoint_every": 2, "patience": 2}
    return SFTExperiment(
        workdir=str(workdir),
        model=ScratchSettings(vocab_size=300, layers=2, width=32, ffn=48, max_positions=64),
        data=DataSettings(source=str(data), heldout=8, limit=60),
        text=InstructionConfig(max_length=48),
        adapter=FullConfig(),
        optim=OptimConfig(learning_rate=1e-2),
        run=SFTRunSettings(**(small | run)),  # type: ignore[arg-type]
    )


def changed(settings: Any, section: str, **changes: object) -> Any:
    """The settings with some keys of one section changed."""
    return dataclasses.replace(settings, **{section: dataclasses.replace(getattr(settings, section), **changes)})
