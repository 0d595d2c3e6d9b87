"""One kind of adapter on the 175 seed tasks of Self-Instruct (arXiv:2212.10560): the rows of ``benchmarks.adapters``.

Command:   python -m experiments.sft --config configs/sft_adapters.py:dora
           The kinds are those of KINDS below; ``dense-lora`` is LoRA on unquantized weights.
           The file: seed_tasks.jsonl of the authors' repository (yizhongw/self-instruct).
Hardware:  2 CPU cores, 5 GiB of memory.
Minutes:   1 to 2 each, on two cores of an AMD EPYC.
Expected:  held-out perplexity 13.1 -> 11.0 to 12.6, by kind; the table is in BUILD_NOTES.md.
"""

import pathlib

from experiments.configdict import as_config
from experiments.settings import ModelSettings
from experiments.sft.settings import DataSettings, RunSettings, SFTExperiment
from lqlm.adapters.configs import AdapterConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.records import InstructionConfig

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared/data/self_instruct/seed_tasks.jsonl.gz"

# The adapter, whether the base is in NF4, and the greatest learning rate: fewer and smaller numbers need a larger one.
KINDS: dict[str, tuple[AdapterConfig, bool, float]] = {
    "lora": (LoraConfig(), True, 2e-4),
    "dense-lora": (LoraConfig(), False, 2e-4),
    "rslora": (LoraConfig(rslora=True, alpha=8.0), True, 2e-4),
    "dora": (LoraConfig(dora=True), True, 2e-4),
    "gaussian": (LoraConfig(init="gaussian"), True, 2e-4),
    "pissa": (LoraConfig(init="pissa", alpha=16.0), True, 1e-4),
    "olora": (LoraConfig(init="olora", alpha=16.0), True, 1e-4),
    "loftq": (LoraConfig(init="loftq", loftq_iterations=2), True, 2e-4),
    "qalora": (LoraConfig(group=64, rank=8, alpha=16.0), True, 2e-4),
    "ia3": (Ia3Config(), True, 1e-2),
    "prompt": (PromptConfig(), True, 1e-2),
    "prefix": (PrefixConfig(), True, 1e-2),
}


def get_config(kind: str = "lora"):
    """The settings of one kind; each can be overridden on the command line."""
    if kind not in KINDS:
        raise UserError(f"configs/sft_adapters.py:{kind}: no such kind; choose {', '.join(KINDS)}")
    adapter, quantize, rate = KINDS[kind]
    return as_config(
        SFTExperiment(
            workdir=f"runs/adapters/{kind}",
            model=ModelSettings(quantize=quantize),
            data=DataSettings(source=str(SHARED) if SHARED.exists() else "seed_tasks.jsonl", heldout=40),
            text=InstructionConfig(max_length=256),
            adapter=adapter,
            optim=OptimConfig(learning_rate=rate, schedule="cosine", warmup_steps=2),
            run=RunSettings(steps=16, rows=2, eval_every=0, checkpoint_every=16, eval_batch=4),
        )
    )
