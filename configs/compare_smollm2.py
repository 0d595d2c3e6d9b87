"""GRPO, PPO and online DPO on SmolLM2-135M-Instruct in NF4: three seeds of each on one task, at equal rollouts.

Command:   python -m experiments.compare --config configs/compare_smollm2.py
Hardware:  2 CPU cores, 5 GiB of memory.
Minutes:   56 on two cores of an AMD EPYC.
Expected:  greedy held-out accuracy 33.3% before; after 1,280 samples 69.1% +- 5.4 (ppo, two updates a rollout), 64.9%
           +- 1.5 (grpo), 58.0% +- 8.3 (online_dpo; 95% intervals over the seeds); 526, 206 and 204 seconds of work.

The runs are those of the three configs, with 20 of their 40 steps: 1,280 samples each of the same problems, and one
learning rate for all.
"""

from experiments.compare.settings import CompareExperiment, VariantSettings
from experiments.configdict import as_config


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        CompareExperiment(
            workdir="runs/compare_smollm2",
            variants={
                name: VariantSettings(f"configs/{name}_smollm2_arithmetic.py", name)
                for name in ("grpo", "ppo", "online_dpo")
            },
            overrides=("--config.run.steps=20", "--config.run.eval_every=5"),
            title="Sums, differences and products of one-digit numbers, SmolLM2-135M-Instruct in NF4",
        )
    )
