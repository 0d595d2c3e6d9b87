"""GRPO on chips: the small poker agent of the pipeline goes on learning from what its answers win by playing on.

Command:   python -m experiments.grpo --config configs/poker_grpo.py
           (after python -m experiments.poker pipeline --config configs/poker_small.py)
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   12 beside twenty other jobs on the machine, 2 of them compiling; 3.6 ms of a core for each playout.
Expected:  no gain in chips that can be told from 0.  From 750 steps of SFT, --config.optim.learning_rate=3e-3 (seed 0),
           greedy answers to 384 held-out decisions, before and after: +0.55 +- 1.22 big blinds a decision, legal
           99.7% to 93.2%, words like the player's 74.5% to 69.5%.  At 5e-4, 20 steps: chips 3.64 to 3.58 (128).
           One playout has a standard deviation of 17 big blinds: learn for longer, with more playouts.
"""

from experiments.configdict import as_config
from experiments.grpo.advantages import BatchAdvantage
from experiments.grpo.settings import GRPOExperiment, RunSettings
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.poker import PokerConfig


def get_config(folder: str = "runs/poker_small"):
    """The settings, for the folder of a pipeline; each can be overridden on the command line."""
    return as_config(
        GRPOExperiment(
            workdir="runs/poker_grpo",
            model=ModelSettings(source=f"{folder}/sft/model", quantize=False),
            task=PokerConfig(
                source=f"{folder}/selected/train.jsonl",
                heldout_source=f"{folder}/selected/valid.jsonl",
                limit=2048,
                heldout=128,
                balance="words",  # most decisions are folds before the flop
            ),
            rewards={
                "chips": RewardSettings("lqlm.rewards.poker.chips"),
                "agrees": RewardSettings("lqlm.rewards.poker.agrees", weight=0.0),  # to be seen only
            },
            adapter=LoraConfig(rank=16, alpha=32.0),
            sampling=SamplingConfig(max_new_tokens=16),
            grpo=GRPOConfig(beta=0.02),
            # Divided by the spread of the batch and not of each group: decisions about many chips weigh more.
            advantage=BatchAdvantage(),
            optim=OptimConfig(learning_rate=5e-4, schedule="cosine", warmup_steps=4),
            run=RunSettings(steps=60, prompts=8, group=8, eval_every=20, eval_batch=16),
        )
    )
