"""A reward model from SmolLM2-135M-Instruct in NF4 on Anthropic's hh-rlhf, harmless-base (arXiv:2204.05862).

The pairs contain offensive and upsetting text; they are meant for research on reducing harm.

Command:   python -m experiments.reward_model --config configs/reward_model_hh.py
           The file: harmless-base/test.jsonl.gz of the authors' repository (anthropics/hh-rlhf), here or by
           configs/reward_model_hh.py:FILE
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   9 with --config.model.products=bfloat16, on two cores of an AMD EPYC with much other work beside it.
Expected:  so, held-out accuracy 48% -> 59% of 64 pairs (a standard error is 6%), loss 0.699 -> 0.679 (seed 0).
"""

import pathlib

from experiments.configdict import as_config
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.reward_model.settings import RewardModelExperiment
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.pairs import PairConfig

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared/data/hh_rlhf/harmless-base.test.jsonl.gz"


def get_config(source: str = ""):
    """The settings, for a file of pairs; each can be overridden on the command line."""
    return as_config(
        RewardModelExperiment(
            workdir="runs/reward_model_hh",
            data=PairData(source=source or (str(SHARED) if SHARED.exists() else "test.jsonl.gz"), heldout=64),
            text=PairConfig(max_prompt=64, max_completion=32, too_long="skip", unusable="skip"),
            reward=RewardModelConfig(center=0.01),
            adapter=LoraConfig(rank=16, alpha=32.0),
            optim=OptimConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=4),
            run=PairRunSettings(steps=40, pairs=4, eval_every=0, eval_batch=8, checkpoint_every=10),
        )
    )
