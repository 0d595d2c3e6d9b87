"""SFT of SmolLM2-135M-Instruct in NF4 by LoRA on the 175 seed tasks of Self-Instruct (arXiv:2212.10560).

Command:   python -m experiments.sft --config configs/sft_smollm2_self_instruct.py
           The file: seed_tasks.jsonl of the authors' repository (yizhongw/self-instruct), here or by
           configs/sft_smollm2_self_instruct.py:FILE
Hardware:  2 CPU cores, 5 GiB of memory.
Minutes:   about 11 on one core beside another job, by its parts (15 s a step; the run was paused between).
Expected:  147 tasks to learn from, 25 held out, seed 0: loss 2.691 -> 2.500 nats a token, perplexity 14.7 -> 12.2,
           token accuracy .450 -> .478; greedy answers (16 of up to 48 tokens) grow no more like the references:
           ROUGE-L .152 -> .097, BLEU 2.1 -> 2.0.
"""

import pathlib

from experiments.configdict import as_config
from experiments.sft.settings import DataSettings, RunSettings, SFTExperiment
from lqlm.adapters.configs import LoraConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.records import InstructionConfig

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared/data/self_instruct/seed_tasks.jsonl.gz"


def get_config(source: str = ""):
    """The settings, for a file of instructions; each can be overridden on the command line."""
    return as_config(
        SFTExperiment(
            workdir="runs/sft_smollm2_self_instruct",
            data=DataSettings(source=source or (str(SHARED) if SHARED.exists() else "seed_tasks.jsonl"), heldout=25),
            text=InstructionConfig(max_length=256),
            adapter=LoraConfig(rank=16, alpha=32.0, dropout=0.05),
            optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=3),
            run=RunSettings(steps=30, rows=4, eval_every=10, patience=2, eval_batch=4, generate=16, new_tokens=48),
        )
    )
