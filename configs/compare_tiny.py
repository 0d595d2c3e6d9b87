"""Algorithms, or remedies for poor groups, on a tiny model that the project pretrains itself: three seeds of each.

Command:   python -m experiments.compare --config configs/compare_tiny.py
Remedies:  python -m experiments.compare --config configs/compare_tiny.py:remedies
Steps:     python -m experiments.compare --config configs/compare_tiny.py:steps   (process supervision)
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   59, two runs at once, a core each (150 to 290 seconds a run).
Expected:  greedy held-out accuracy 25% before; after 38,400 rollouts 38% (cispo) to 47% (gspo), GRPO 43.5%, three
           seeds: no method is told from GRPO.  Remedies with one update, from 21%: 27% to 34%.  Steps: 23% before, one
           seed: 17% (grpo), 27% (process).

The runs are those of configs/grpo_variants.py, with two updates on each rollout, as PPO's two epochs: with one, every
ratio is 1, so that GSPO is GRPO, CISPO a mean over tokens, and nothing is ever clipped.  PPO, A2C and online DPO have
the same model, task, rate and samples a step.  The remedies are compared in groups of 4, where more groups are all
equal.  Variants that sample again draw about two rollouts a step, and get about half of the steps.  Of DPO it is the
online one that takes part.
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
STEP_BY_STEP = (
    "--config.model.source=runs/pretrain_arithmetic_steps/model",
    "--config.task.operands=0,9",
    "--config.task.terms=3,4",
    "--config.task.train=1280",
    "--config.task.template=Work out {expression}.",
    "--config.sampling.max_new_tokens=32",
    "--config.run.steps=100",
    "--config.run.eval_every=10",
)


def variant(name: str, *overrides: str) -> VariantSettings:
    """A line of configs/grpo_variants.py, with two updates on each rollout."""
    return VariantSettings(f"configs/grpo_variants.py:{name}", overrides=("--config.run.updates=2", *overrides))


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

STEPS = {
    "grpo": variant("grpo"),
    "process": variant("process"),
    "process_outcome": variant("process", "--config.advantage.outcome=1.0"),
}
# Name -> variants, what all of them get, the model that comes first, and what the picture says of the task.
COMPARISONS = {
    "algorithms": (ALGORITHMS, (), "answers", "Sums and differences of two numbers up to 19"),
    "remedies": (REMEDIES, GROUPS_OF_4, "answers", "Sums and differences of two numbers up to 19"),
    "steps": (STEPS, STEP_BY_STEP, "steps", "Sums and differences of three or four numbers, step by step"),
}


def get_config(which: str = "algorithms"):
    """The settings: ``algorithms``, ``remedies`` or ``steps``."""
    if which not in COMPARISONS:
        raise UserError(f"there is no comparison {which!r}; choose {', '.join(COMPARISONS)}")
    variants, overrides, pretrained, task = COMPARISONS[which]
    return as_config(
        CompareExperiment(
            workdir=f"runs/compare_{which}",
            variants=variants,
            overrides=overrides,
            at_once=2,
            prepare={"pretrain": VariantSettings(f"configs/pretrain_arithmetic.py:{pretrained}", "sft")},
            title=f"{task}, a model of 0.8 million parameters: {which}",
        )
    )
