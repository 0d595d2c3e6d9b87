"""The smallest runs of PPO and A2C, and their config files: --config tests/experiments/tiny_ppo.py:NAME:MODEL."""

import pathlib

from experiments.a2c.settings import A2CExperiment
from experiments.configdict import as_config
from experiments.ppo.settings import (
    ActorCriticRun,
    EstimateSettings,
    PPOExperiment,
    RunSettings,
    ValueSettings,
)
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig

TARGETS = ("q_proj", "down_proj")  # few, so that little is compiled
LOOP = {"steps": 4, "prompts": 4, "micro_batches": 2, "group": 2, "logprob_chunk": 8, "samples": 2}
OFTEN = {"eval_every": 2, "eval_batch": 2, "checkpoint_every": 2}


def tiny_ppo(model: pathlib.Path, workdir: pathlib.Path, **run: object) -> PPOExperiment:
    """The smallest run that meets everything: epochs, minibatches, micro-batches, an adaptive coefficient."""
    small = {"epochs": 2, "minibatches": 2, **LOOP, **OFTEN}
    return PPOExperiment(
        **shared(model, workdir),
        ppo=PPOConfig(vf_coef=0.5),
        kl=KLConfig(coefficient=0.02, target=0.5),
        estimate=EstimateSettings(missing_eos=0.5),
        run=RunSettings(**(small | run)),  # type: ignore[arg-type]
    )


def tiny_a2c(model: pathlib.Path, workdir: pathlib.Path, **run: object) -> A2CExperiment:
    """The smallest run of A2C."""
    return A2CExperiment(**shared(model, workdir), run=ActorCriticRun(**(LOOP | OFTEN | run)))  # type: ignore[arg-type]


def shared(model: pathlib.Path, workdir: pathlib.Path) -> dict:
    """Task, rewards and adapters."""
    return {
        "workdir": str(workdir),
        "task": ArithmeticConfig(operands=(0, 40), train=32, heldout=3, template="{expression}="),
        "rewards": {"digits": RewardSettings("tests.experiments.rewards.digits", 2.0)},
        "model": ModelSettings(source=str(model)),
        "adapter": LoraConfig(rank=4, alpha=8.0, targets=TARGETS),
        "value": ValueSettings(adapter=LoraConfig(rank=2, alpha=4.0, targets=TARGETS)),
        "sampling": SamplingConfig(max_new_tokens=6),
        "optim": OptimConfig(learning_rate=5e-3),
    }


def get_config(which):
    name, _, model = which.partition(":")
    return as_config({"ppo": tiny_ppo, "a2c": tiny_a2c}[name](pathlib.Path(model), pathlib.Path("nowhere")))
