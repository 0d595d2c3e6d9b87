"""Online DPO on SmolLM2-135M-Instruct in NF4: sums, differences and products of one-digit numbers.

Command:   python -m experiments.online_dpo --config configs/online_dpo_smollm2_arithmetic.py
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   5 for 20 steps (10 seconds a step), on two cores of an AMD EPYC.
Expected:  33.3% of 96 held-out problems before; with --config.run.steps=20 54.2%, 60.4% and 59.4% after (seeds 0, 1,
           2).  The problems, samples and rewards are those of configs/grpo_smollm2_arithmetic.py.
"""

from experiments.configdict import as_config
from experiments.online_dpo.settings import OnlineDPOExperiment, RunSettings
from experiments.rollouts.settings import RewardSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.dpo_config import DPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        OnlineDPOExperiment(
            workdir="runs/online_dpo_smollm2_arithmetic",
            task=ArithmeticConfig(operators="+-*", digits=1, heldout=96),  # 203 problems to train on, 96 held out
            rewards={"correct": RewardSettings("lqlm.rewards.functions.correct")},
            adapter=LoraConfig(rank=16, alpha=32.0),
            sampling=SamplingConfig(max_new_tokens=12),
            dpo=DPOConfig(beta=0.1),
            optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2),
            run=RunSettings(steps=40, prompts=8, group=8, pairs=2),
        )
    )
