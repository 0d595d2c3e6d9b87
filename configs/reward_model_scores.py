"""A reward model from SmolLM2-135M-Instruct in NF4 on single texts with scores: right and wrong answers to sums.

Command:   python -m experiments.reward_model --config configs/reward_model_scores.py
           Your own data: configs/reward_model_scores.py:regression,FILE, or classification,FILE with scores of 0 and 1.
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   not measured whole.
Expected:  not measured.
"""

from experiments.configdict import as_config
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.reward_model.settings import RewardModelExperiment
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.scored import ScoredConfig


def get_config(which: str = "regression"):
    """The settings, for ``LOSS`` or ``LOSS,FILE``; each can be overridden on the command line."""
    loss, _, source = which.partition(",")
    return as_config(
        RewardModelExperiment(
            workdir=f"runs/reward_model_{loss}",
            data=PairData(source=source, heldout=96, limit=0 if source else 2048),
            text=ScoredConfig(),
            reward=RewardModelConfig(loss),  # type: ignore[arg-type]  # which refuses what it does not know
            adapter=LoraConfig(rank=16, alpha=32.0),
            optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=4),
            run=PairRunSettings(steps=80, pairs=16, eval_every=20, eval_batch=16, checkpoint_every=20),
        )
    )
