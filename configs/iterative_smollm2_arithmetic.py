"""Iterative GRPO on SmolLM2-135M-Instruct in NF4: a reward model of right and wrong answers, trained again by turns.

Command:   python -m experiments.iterative --config configs/iterative_smollm2_arithmetic.py
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   not measured whole.
Expected:  not measured.
"""

from experiments.configdict import as_config
from experiments.grpo.settings import RunSettings
from experiments.iterative.settings import IterativeExperiment, RenewedJudge
from experiments.pairs.settings import PairRunSettings
from experiments.r1.settings import RLStage
from experiments.rollouts.drawing import DrawSettings
from experiments.rollouts.settings import RewardSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.pairs import PairConfig

OPTIM = OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2)
RIGHT = RewardSettings("lqlm.rewards.functions.correct")


def get_config():
    """The settings; each can be overridden on the command line."""
    sampling = SamplingConfig(max_new_tokens=12)
    return as_config(
        IterativeExperiment(
            workdir="runs/iterative_smollm2_arithmetic",
            adapter=LoraConfig(rank=16, alpha=32.0),
            task=ArithmeticConfig(operators="+-*", digits=1, heldout=96),  # 203 problems to train on, 96 held out
            draw=DrawSettings(rewards={"right": RIGHT}, sampling=sampling, batch=16, samples=8),
            rl=RLStage(
                rewards={},
                sampling=sampling,
                grpo=GRPOConfig(beta=0.04),
                optim=OPTIM,
                run=RunSettings(steps=10, prompts=8, group=8, eval_every=10, checkpoint_every=5),
            ),
            judge=RenewedJudge(
                heldout=40,
                text=PairConfig(max_prompt=64, max_completion=16, unusable="skip"),
                optim=OPTIM,
                run=PairRunSettings(steps=20, pairs=8, eval_every=10, checkpoint_every=10),
            ),
        )
    )
