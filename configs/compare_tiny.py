"""Algorithms, or remedies for poor groups, on a tiny model that the project pretrains itself: three seeds of each.

Command:   python -m experiments.compare --config configs/compare_tiny.py
Remedies:  python -m experiments.compare --config configs/compare_tiny.py:remedies
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   70 of one core (60 to 220 seconds of work a run).
Expected:  greedy held-out accuracy 21% before; after 38,400 rollouts 27% (dapo) to 35% (a2c), remedies 27% to 34%, with
           intervals that overlap: at three seeds no method is told from plain GRPO (32%), but for what one of so many
           comparisons is by chance.

The runs are those of configs/grpo_variants.py, PPO and A2C have the same model, task, rate and samples a step.  The
remedies are compared in groups of 4, where more groups are all equal.  Variants that sample again draw about two
rollouts a step, and get about half of the steps.  Of DPO it is the online one that takes part.
"""

from experiments.compare.settings import CompareExperiment, VariantSettings
from experiments.configdict import as_config
from lqlm.errors import UserError

TASK = (
    "--config.model.source=runs/pretrain_arithmetic/model",
    "--config.task.operators=+-",
    "--config.task.operands=0,19",
    "--config.task.train=640",
    "--config.task.heldout=128",
    "--config.sampling.max_new_tokens=6",
    "--config.optim.learning_rate=3e-4",
    "--config.optim.schedule=constant",
    "--config.optim.warmup_steps=0",
    "--config.run.steps=300",
    "--config.run.prompts=16",
    "--config.run.group=8",
    "--config.run.eval_every=25",
    "--config.run.eval_batch=128",
    "--config.run.checkpoint_every=100",
)
SAMPLES_AGAIN = ("--config.run.steps=160",)
GROUPS_OF_4 = ("--config.run.group=4", "--config.run.prompts=32")


def variant(name: str, *overrides: str) -> VariantSettings:
    """A line of configs/grpo_variants.py."""
    return VariantSettings(f"configs/grpo_variants.py:{name}", overrides=overrides)


ALGORITHMS = {
    **{name: variant(name) for name in ("grpo", "grpo_kl", "iterative", "drgrpo", "gspo", "cispo", "bnpo", "rloo")},
    "dapo_static": variant("dapo_static"),
    "dapo": variant("dapo", *SAMPLES_AGAIN),
    "ppo": VariantSettings("configs/ppo_smollm2_arithmetic.py", "ppo", TASK),
    "a2c": VariantSettings("configs/a2c_smollm2_arithmetic.py", "a2c", TASK),
    "online_dpo": VariantSettings("configs/online_dpo_smollm2_arithmetic.py", "online_dpo", TASK),
}
REMEDIES = {
    **{
        name: variant(name)
        for name in ("grpo", "mixed", "anchored", "ngrpo", "avspo", "mapo", "zvp", "sft_mix", "luffy")
    },
    "growing": variant("growing", *SAMPLES_AGAIN),
    "dynamic": variant("dynamic", *SAMPLES_AGAIN),
}


def get_config(which: str = "algorithms"):
    """The settings: ``algorithms`` or ``remedies``."""
    if which not in ("algorithms", "remedies"):
        raise UserError(f"there is no comparison {which!r}; choose algorithms or remedies")
    return as_config(
        CompareExperiment(
            workdir=f"runs/compare_{which}",
            variants=ALGORITHMS if which == "algorithms" else REMEDIES,
            overrides=() if which == "algorithms" else GROUPS_OF_4,
            prepare={"pretrain": VariantSettings("configs/pretrain_arithmetic.py", "sft")},
            title=f"Sums and differences up to 19, a model of 0.8 million parameters: {which}",
        )
    )
