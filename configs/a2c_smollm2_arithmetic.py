"""A2C on SmolLM2-135M-Instruct in NF4: sums, differences and products of one-digit numbers.

Command:   python -m experiments.a2c --config configs/a2c_smollm2_arithmetic.py
Hardware:  2 CPU cores.
Minutes:   6 for 20 steps (16 seconds a step), on two cores of an AMD EPYC with some other work beside it.
Expected:  33.3% of 96 held-out problems before; with --config.run.steps=20 57.3% after (seed 0).  The problems, samples
           and rewards are those of configs/grpo_smollm2_arithmetic.py.
"""

from experiments.a2c.settings import A2CExperiment
from experiments.configdict import as_config
from experiments.ppo.settings import ActorCriticRun, ValueSettings
from experiments.rollouts.settings import RewardSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.a2c import A2CConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        A2CExperiment(
            workdir="runs/a2c_smollm2_arithmetic",
            task=ArithmeticConfig(operators="+-*", digits=1, heldout=96),  # 203 problems to train on, 96 held out
            rewards={"correct": RewardSettings("lqlm.rewards.functions.correct")},
            adapter=LoraConfig(rank=16, alpha=32.0),
            value=ValueSettings(adapter=LoraConfig(rank=16, alpha=32.0)),
            sampling=SamplingConfig(max_new_tokens=12),
            kl=KLConfig(coefficient=0.01),
            a2c=A2CConfig(),
            optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2),
            run=ActorCriticRun(steps=40, prompts=8, group=8, micro_batches=2),
        )
    )
