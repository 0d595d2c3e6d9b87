"""DPO of SmolLM2-135M-Instruct in NF4: right against wrong answers to sums and differences up to 19.

Command:   python -m experiments.dpo --config configs/dpo_arithmetic.py
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   58 on half of a core, beside other jobs.
Expected:  one seed, 96 held-out pairs, before and after 20, 40, 60, 80 steps: the right answer is the likelier one in
           50%, 67%, 74%, 79%, 78%; its implicit reward is the greater one in 66%, 71%, 76%, 76%; loss 0.693 -> 0.483.
"""

from experiments.configdict import as_config
from experiments.dpo.settings import DPOExperiment
from experiments.pairs.settings import PairData, PairRunSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.dpo import DPOConfig
from lqlm.optim.chains import OptimConfig


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        DPOExperiment(
            workdir="runs/dpo_arithmetic",
            data=PairData(heldout=96),
            dpo=DPOConfig(beta=0.1),
            adapter=LoraConfig(rank=16, alpha=32.0),
            optim=OptimConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=4),
            run=PairRunSettings(steps=80, pairs=16, eval_every=20, eval_batch=16, checkpoint_every=20),
        )
    )
