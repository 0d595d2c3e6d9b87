"""Goldens of PEFT: tiny random models, adapters of every kind as PEFT saves them, and the logits of each.

``peft/<family>/``: ``config.json`` and ``base.npz`` (weights, tokens, logits of the base).  ``peft/<case>/``: an
adapter directory.  ``peft/logits.npz``: the logits of each case.  ``peft/inits.npz``: PEFT's PiSSA and OLoRA of one
matrix.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_peft.py tests/goldens
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from unittest import mock

import numpy as np
import peft
import peft.tuners.lora.layer
import peft.tuners.lora.variants
import torch
import transformers

CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
QWEN2 = {**{k: v for k, v in CONFIG.items() if k != "head_dim"}, "model_type": "qwen2"}
FAMILIES = {"llama": CONFIG, "qwen2": QWEN2}
SEED = 0
LORA, CAUSAL = peft.LoraConfig, {"task_type": "CAUSAL_LM"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of adapter on one of the models."""

    family: str
    config: peft.PeftConfig


def cases() -> dict[str, Case]:
    """Every kind; made anew each time, because PEFT writes into its configs."""
    some = ["q_proj", "v_proj", "down_proj"]
    patterns = {
        "rank_pattern": {"q_proj": 4, "layers.1.mlp.down_proj": 1, "^model.layers.0.self_attn.v_proj": 5},
        "alpha_pattern": {"k_proj": 7, r"layers\.0\..*_proj": 3},
    }
    return {
        "lora": Case("llama", LORA(r=3, lora_alpha=5, lora_dropout=0.1, target_modules="all-linear", **CAUSAL)),
        "rslora": Case("llama", LORA(r=4, lora_alpha=6, use_rslora=True, target_modules=some, **CAUSAL)),
        "dora": Case("llama", LORA(r=2, lora_alpha=5, use_dora=True, target_modules="all-linear", **CAUSAL)),
        "patterns": Case("llama", LORA(r=2, lora_alpha=5, target_modules="all-linear", **patterns, **CAUSAL)),
        "dora_patterns": Case(
            "qwen2", LORA(r=2, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=some, **patterns, **CAUSAL)
        ),
        "gaussian": Case("llama", LORA(r=2, init_lora_weights="gaussian", target_modules=["up_proj"], **CAUSAL)),
        "lora_bias": Case("qwen2", LORA(r=2, lora_bias=True, target_modules="all-linear", **CAUSAL)),
        "bias_all": Case("qwen2", LORA(r=2, bias="all", target_modules=some, **CAUSAL)),
        "bias_lora_only": Case("qwen2", LORA(r=2, bias="lora_only", target_modules=some, **CAUSAL)),
        "qalora": Case(
            "llama", LORA(r=2, use_qalora=True, qalora_group_size=8, target_modules=["k_proj", "down_proj"], **CAUSAL)
        ),
        "ia3": Case(
            "qwen2",
            peft.IA3Config(
                target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL
            ),
        ),
        "prompt": Case("llama", peft.PromptTuningConfig(num_virtual_tokens=3, **CAUSAL)),
        "p_tuning": Case("llama", peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **CAUSAL)),
        "prefix": Case("llama", peft.PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL)),
    }


def random_base(seed: int, family: str = "llama") -> transformers.PreTrainedModel:
    """A model whose every weight is drawn from one generator, in float32."""
    settings = {"attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = transformers.AutoConfig.for_model(**FAMILIES[family], **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    fill(model, seed, scale=0.2)
    return model


def fill(model: torch.nn.Module, seed: int, scale: float, trained: bool = False) -> None:
    """Draws all parameters, or all that are trained; norms and factors are drawn around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.requires_grad or not trained:
            drawn = scale * torch.randn(weight.shape, generator=generator)
            around_1 = any(part in name for part in ("norm", "ia3", "magnitude"))
            weight.data = drawn + 1.0 if around_1 else drawn


@contextlib.contextmanager
def qalora_of_dense_layers() -> Iterator[None]:
    """Lets PEFT run QA-LoRA on ordinary layers: its own choice of it is made for GPTQ layers only."""
    cls = peft.tuners.lora.layer.Linear
    plain = cls.resolve_lora_variant

    def resolve(self, *, config, **kwargs):
        if config.use_qalora:
            return peft.tuners.lora.variants.QALoraLinearVariant()
        return plain(self, config=config, **kwargs)

    with mock.patch.object(cls, "resolve_lora_variant", resolve):
        yield


def random_adapter(model: transformers.PreTrainedModel, config: peft.PeftConfig, seed: int) -> peft.PeftModel:
    """An adapter whose every number is random (PEFT's own start is mostly a no-op)."""
    with qalora_of_dense_layers():
        adapted = peft.get_peft_model(model, config).eval()
    fill(adapted, seed, scale=0.3, trained=True)
    return adapted


def logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """Float32 logits ``[B, T, V]`` of the real tokens."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()[:, -tokens.shape[1] :]


def initialised(init: str, weight: np.ndarray, rank: int, alpha: int) -> tuple[np.ndarray, ...]:
    """What PEFT makes of one matrix [out, in]: the base's weight, lora_A and lora_B."""
    model = torch.nn.Sequential(torch.nn.Linear(*weight.shape[::-1], bias=False))
    model[0].weight.data = torch.from_numpy(weight.copy())
    config = LORA(r=rank, lora_alpha=alpha, init_lora_weights=init, target_modules=["0"])
    layer = peft.get_peft_model(model, config).base_model.model[0]
    found = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return tuple(x.detach().numpy() for x in found)


def converted(init: str, seed: int, out: pathlib.Path, **settings) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Trains (draws) an adapter of a changed base and saves it for the original one, PEFT's way.

    Returns:
        The logits of the trained model, and the initial and trained factors by their keys, ``initial.*`` and
        ``trained.*``.
    """
    tokens = random_tokens()
    config = LORA(
        r=2, lora_alpha=5, init_lora_weights=init, target_modules=["q_proj", "down_proj"], **CAUSAL, **settings
    )
    adapted = peft.get_peft_model(random_base(SEED), config).eval()
    with tempfile.TemporaryDirectory() as folder:
        start = pathlib.Path(folder) / "start"
        adapted.peft_config["default"].init_lora_weights = True
        adapted.save_pretrained(start)
        adapted.peft_config["default"].init_lora_weights = init
        states = {f"initial.{k}": v.numpy().copy() for k, v in peft.get_peft_model_state_dict(adapted).items()}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data = weight.data + 0.2 * torch.randn(weight.shape, generator=generator)
        states |= {f"trained.{k}": v.numpy().copy() for k, v in peft.get_peft_model_state_dict(adapted).items()}
        found = logits(adapted, tokens)
        adapted.save_pretrained(out, path_initial_model_for_weight_conversion=str(start))
    return found, states


def random_tokens() -> np.ndarray:
    """int32 [2, 12]."""
    return np.random.default_rng(SEED).integers(0, CONFIG["vocab_size"], (2, 12)).astype(np.int32)


def main(out_dir: str) -> None:
    """Writes ``peft/``."""
    out = pathlib.Path(out_dir) / "peft"
    shutil.rmtree(out, ignore_errors=True)
    versions = json.dumps({m.__name__: m.__version__ for m in (peft, torch, transformers)})
    tokens = random_tokens()
    for family, config in FAMILIES.items():
        (out / family).mkdir(parents=True)
        base = random_base(SEED, family)
        weights = {name: tensor.numpy() for name, tensor in base.state_dict().items()}
        np.savez_compressed(out / family / "base.npz", tokens=tokens, base_logits=logits(base, tokens), **weights)
        (out / family / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    found = {"versions": np.array(versions)}
    for name, case in cases().items():
        adapted = random_adapter(random_base(SEED, case.family), case.config, SEED + 1)
        adapted.save_pretrained(out / name)
        found[name] = logits(adapted, tokens)
    for init in ("pissa", "olora"):
        found[init], states = converted(init, SEED + 2, out / init)
        np.savez_compressed(out / init / "states.npz", **states)
    np.savez_compressed(out / "logits.npz", **found)
    for card in out.glob("*/README.md"):
        card.unlink()
    weight = np.random.default_rng(SEED).normal(size=(10, 7)).astype(np.float32)
    inits = {init: initialised(init, weight, 3, 6) for init in ("pissa", "olora")}
    named = {f"{init}.{part}": x for init, xs in inits.items() for part, x in zip(("rest", "A", "B"), xs)}
    np.savez_compressed(out / "inits.npz", weight=weight, **named)


if __name__ == "__main__":
    main(sys.argv[1])
