"""A tiny model, and three ways to run an experiment on it: as objects, as a command in this process, as a process."""

import dataclasses
import logging
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import absl.logging
import jax
import pytest
from absl import flags

from experiments import command
from experiments.finish import finish
from experiments.grpo import __main__ as grpo
from experiments.grpo.algorithm import GRPO
from experiments.loop import train
from experiments.run import open_run
from experiments.workdir import claim
from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.io.load import load_model
from lqlm.io.reward_model import save_reward_model
from lqlm.models.heads import init_scalar_head
from tests.experiments.tiny_model import save_model, save_records

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONFIG = "tests/experiments/tiny_config.py"


BAR = re.compile(r"\d+%\|.*\|")


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    def said(self) -> list[str]:
        """What stands on stderr, without the progress bar."""
        return [line for line in re.split(r"[\r\n]+", self.err) if line.strip() and not BAR.search(line)]

    def line(self) -> str:
        """The only line on stderr, of a command that ended by bad input."""
        lines = self.said()
        assert self.status == 2 and len(lines) == 1 and lines[0].startswith("error: "), self
        assert "Traceback" not in self.out
        return lines[0]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def loaded(model):
    return load_model(str(model), None, "float32")


@pytest.fixture(scope="session")
def judged(loaded, model, tmp_path_factory):
    """A reward model's tree and directory; its adapters change the model."""
    adapter = LoraConfig(rank=2, alpha=4.0, targets=("v_proj",))
    _, adapters = init_adapters(jax.random.key(0), loaded.base, adapter)
    tree = {**jax.tree.map(lambda x: x + 0.1, adapters), "score": init_scalar_head(jax.random.key(1), 64)}
    folder = tmp_path_factory.mktemp("judge") / "model"
    save_reward_model(folder, tree, adapter, loaded.config, str(model))
    return tree, folder


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A file of forty short prompts with completions."""
    return save_records(tmp_path_factory.mktemp("data") / "sums.jsonl")


def run_all(settings, algorithm=GRPO):
    """What a command does, without its flags; returns the run and the final state."""
    with claim(settings) as workdir, open_run(algorithm, algorithm.build(settings), workdir) as run:
        state = train(run)
        finish(run, state)
        return run, state


class Killed(Exception):
    """Stands for the end of a process between two steps."""


def run_killed(settings, algorithm, at):
    """What a process leaves that ends before a step."""

    def one_step(run, state, step):
        if step == at:
            raise Killed
        return algorithm.one_step(run, state, step)

    mortal = dataclasses.replace(algorithm, one_step=one_step)
    with pytest.raises(Killed), claim(settings) as workdir, open_run(mortal, mortal.build(settings), workdir) as run:
        train(run)


@pytest.fixture
def logging_kept():
    """A command sets up logging for its process; the tests after it get back theirs."""
    loggers, verbosity = (logging.getLogger(), logging.getLogger("lqlm")), absl.logging.get_verbosity()
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    yield
    absl.logging.set_verbosity(verbosity)
    for logger, (handlers, propagate, level) in zip(loggers, before):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def cli(monkeypatch, capfd, logging_kept, model):
    """``cli(*arguments)``: the command experiments.grpo, run in this process; by default on the tiny config."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "use_compilation_cache", lambda: None)  # conftest has set one

    def call(*arguments, config=f"{CONFIG}:{model}", module=grpo, settings=None):
        given = [f"--config={config}"] if config else []
        monkeypatch.setattr(sys, "argv", ["command", *given, *arguments])
        before = set(flags.FLAGS)
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                command.run(module.main, settings or module.ALGORITHM.settings, module.__doc__, module.DEFAULT)
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
        out, err = capfd.readouterr()
        return Ended(ended.value.code or 0, out, err)

    return call


def process(*arguments, module="experiments.grpo", **environment):
    """The command line of a real process, and its environment."""
    line = [sys.executable, "-m", module, f"--cache={ROOT / '.cache' / 'jax'}", *map(str, arguments)]
    return {"args": line, "cwd": ROOT, "env": os.environ | environment, "text": True}


def run_process(*arguments, module="experiments.grpo", **environment):
    ended = subprocess.run(**process(*arguments, module=module, **environment), capture_output=True, timeout=900)
    return Ended(ended.returncode, ended.stdout, ended.stderr)
