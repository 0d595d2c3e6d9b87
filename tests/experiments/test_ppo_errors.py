"""Whatever a person can get wrong with PPO and A2C ends in one line that names cause and cure."""

import re

import pytest

from experiments.a2c import __main__ as a2c
from experiments.a2c.settings import A2CExperiment
from experiments.ppo import __main__ as ppo
from experiments.ppo.settings import PPOExperiment
from experiments.rollouts.settings import RewardModelSettings, RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import FullConfig, LoraConfig
from lqlm.errors import UserError
from lqlm.tasks.arithmetic import ArithmeticConfig

PTX, DATA = ["--config.pretraining.rows=2", "--config.ppo.ptx_coef=1"], "--config.pretraining.data"
COMMAND_LINES = {
    "no epochs": (["--config.run.epochs=0"], ["run.epochs is 0", "1 or more"]),
    "no group": (["--config.run.group=0"], ["run.group is 0", "1 or more"]),
    "minibatches": (["--config.run.minibatches=3"], ["run.minibatches 3", "run.prompts 4"]),
    "micro-batches": (["--config.run.minibatches=4"], ["run.micro_batches 2", "1 prompts of a minibatch"]),
    "surrogate": (["--config.run.surrogate=none"], ["config.run.surrogate", "'clip', 'penalty'"]),
    "ratio": (["--config.ppo.epsilon=1.5"], ["epsilon 1.5"]),
    "discount": (["--config.estimate.gamma=0"], ["estimate.gamma is 0"]),
    "penalty for a missing end": (["--config.estimate.missing_eos=-1"], ["estimate.missing_eos is -1"]),
    "target": (["--config.kl.target=-1"], ["KLConfig", "target -1"]),
    "estimator": (["--config.kl.estimator=k4"], ["config.kl.estimator", "'k1', 'k3'"]),
    "penalty": (["--config.penalty.coefficient=0"], ["penalty.coefficient is 0"]),
    "weight without rows": (["--config.ppo.ptx_coef=1"], ["ptx_coef is 1", "pretraining.rows 0"]),
    "rows without weight": (["--config.pretraining.rows=2"], ["ptx_coef is 0", "pretraining.rows 2"]),
    "odd rows": ([*PTX, "--config.pretraining.rows=3"], ["run.micro_batches 2", "pretraining.rows 3"]),
    "a stream": ([f"{DATA}.stream=true", f"{DATA}.source=a", f"{DATA}.heldout_source=b"], ["pretraining.data.stream"]),
    "no such rows": (
        [*PTX, "--config.pretraining.text.max_length=24", "--config.pretraining.data.source=no/rows.jsonl"],
        ["pretraining", "no/rows.jsonl"],
    ),
    "long rows": (PTX, ["pretraining.text.max_length 128", "64"]),
    "no value function": (["--config.value.path=no/such/value"], ["no/such/value", "adapter_config.json"]),
    "no reward model": (["--config.reward_model.path=no/such/model"], ["no/such/model", "adapter_config.json"]),
    "weight": (["--config.reward_model.weight=nan"], ["reward_model.weight is nan"]),
    "no start": (["--config.start=no/such/start"], ["no/such/start"]),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_the_line_names_what_is_wrong(cli, model, tmp_path, name):
    arguments, words = COMMAND_LINES[name]
    config = f"tests/experiments/tiny_ppo.py:ppo:{model}"
    line = cli(f"--config.workdir={tmp_path / 'work'}", *arguments, config=config, module=ppo).line()
    for word in words:
        assert word in line


def test_a2c_has_no_setting_that_it_does_not_use(cli, model, tmp_path):
    config = f"tests/experiments/tiny_ppo.py:a2c:{model}"
    for argument in ("--config.run.epochs=2", "--config.run.minibatches=2", "--config.ppo.epsilon=0.1"):
        assert "has no key" in cli(argument, config=config, module=a2c).line()
    assert "entropy_coef -1" in cli("--config.a2c.entropy_coef=-1", config=config, module=a2c).line()


@pytest.mark.parametrize(("module", "word"), [(ppo, "experiments.ppo"), (a2c, "experiments.a2c")])
def test_help_names_what_is_written(cli, model, module, word):
    ended = cli("--help", config=f"tests/experiments/tiny_ppo.py:{word[-3:]}:{model}", module=module)
    for part in (f"usage: python -m {word}", "value/", "adapter/", "--config.kl.coefficient", "--config.value.path"):
        assert part in ended.out


TASK = {"task": ArithmeticConfig(), "rewards": {}}
DENSE = ModelSettings(quantize=False)
REFUSED = {
    "full training": ({"adapter": FullConfig(), "model": DENSE}, "moves the base"),
    "a base that was decomposed": ({"adapter": LoraConfig(init="pissa")}, "moves the base"),
    "a name that is taken": (
        {"reward_model": RewardModelSettings("x"), "rewards": {"reward_model": RewardSettings("a.b")}},
        "rewards.reward_model",
    ),
    "a reward model over another base": (
        {"reward_model": RewardModelSettings("x"), "adapter": LoraConfig(init="olora")},
        "reward_model.path",
    ),
}


@pytest.mark.parametrize("cls", [PPOExperiment, A2CExperiment])
@pytest.mark.parametrize("name", REFUSED)
def test_sections_that_contradict_each_other(cls, name):
    sections, word = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(word)):
        cls(**(TASK | sections))
