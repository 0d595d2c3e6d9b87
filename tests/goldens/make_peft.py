"""Golden of PEFT: a tiny random Llama, a LoRA adapter on all its linear maps as PEFT saves it, and the logits of both.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_peft.py tests/goldens
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import peft
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
RANK, ALPHA, SEED = 3, 5, 0


def random_base(seed: int) -> transformers.PreTrainedModel:
    """A Llama whose every weight is drawn from one generator, in float32."""
    settings = {"attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, **settings)).float().eval()
    fill(model, seed, scale=0.2)
    return model


def fill(model: torch.nn.Module, seed: int, scale: float, only: str = "") -> None:
    """Draws the parameters whose names hold ``only``; norms are drawn around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if only in name:
            drawn = scale * torch.randn(weight.shape, generator=generator)
            weight.data = drawn + 1.0 if "norm" in name else drawn


def random_adapter(model: transformers.PreTrainedModel, seed: int) -> peft.PeftModel:
    """LoRA on all linear maps, with random A and B (PEFT's own start has B = 0)."""
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(model, config).eval()
    fill(adapted, seed, scale=0.3, only="lora_")
    return adapted


def logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """Float32 logits ``[B, T, V]``."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def main(out_dir: str) -> None:
    """Writes ``peft/``: the adapter as PEFT saves it, ``config.json`` and ``base.npz`` (weights, tokens, logits)."""
    out = pathlib.Path(out_dir) / "peft"
    shutil.rmtree(out, ignore_errors=True)
    tokens = np.random.default_rng(SEED).integers(0, CONFIG["vocab_size"], (2, 12)).astype(np.int32)
    base = random_base(SEED)
    weights = {name: tensor.numpy().copy() for name, tensor in base.state_dict().items()}
    base_logits = logits(base, tokens)
    adapted = random_adapter(base, SEED + 1)
    adapted.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink()
    versions = json.dumps({m.__name__: m.__version__ for m in (peft, torch, transformers)})
    arrays = {"tokens": tokens, "base_logits": base_logits, "logits": logits(adapted, tokens), "versions": versions}
    np.savez_compressed(out / "base.npz", **arrays, **weights)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
