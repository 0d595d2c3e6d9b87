"""PPO on SmolLM2-135M-Instruct in NF4: sums, differences and products of one-digit numbers.

Command:   python -m experiments.ppo --config configs/ppo_smollm2_arithmetic.py
Hardware:  2 CPU cores.
Minutes:   10 for 20 steps (26 seconds a step), on two cores of an AMD EPYC.
Expected:  33.3% of 96 held-out problems before; with --config.run.steps=20 70.8%, 69.8% and 66.7% after (seeds 0, 1,
           2); of the 40 steps, stopped at 32, 72.9%, 68.8% and 78.1% after 10, 20 and 30 (seed 0).  The problems,
           samples and rewards are those of configs/grpo_smollm2_arithmetic.py.
"""

from experiments.configdict import as_config
from experiments.ppo.settings import EstimateSettings, PPOExperiment, RunSettings, ValueSettings
from experiments.rollouts.settings import RewardSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        PPOExperiment(
            workdir="runs/ppo_smollm2_arithmetic",
            task=ArithmeticConfig(operators="+-*", digits=1, heldout=96),  # 203 problems to train on, 96 held out
            rewards={"correct": RewardSettings("lqlm.rewards.functions.correct")},
            adapter=LoraConfig(rank=16, alpha=32.0),
            value=ValueSettings(adapter=LoraConfig(rank=16, alpha=32.0)),
            sampling=SamplingConfig(max_new_tokens=12),
            kl=KLConfig(coefficient=0.01),
            estimate=EstimateSettings(),
            ppo=PPOConfig(),
            optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2),
            run=RunSettings(steps=40, prompts=8, group=8, epochs=2, minibatches=1, micro_batches=2),
        )
    )
