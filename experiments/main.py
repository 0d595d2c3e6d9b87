"""A run of any algorithm from settings to summary."""

from typing import Any

from experiments import command
from experiments.algorithm import Algorithm
from experiments.configdict import from_config
from experiments.finish import finish, report
from experiments.hosts import first, together, told
from experiments.loop import train
from experiments.run import open_run
from experiments.settings import Experiment
from experiments.workdir import claim, finished, follow


def run(algorithm: Algorithm, config: Any) -> None:
    """One run; a run that is over is only reported.

    Args:
        algorithm: what is run.
        config: the ConfigDict of the command line.
    """
    command.use_compilation_cache()
    run_settings(algorithm, from_config(algorithm.settings, config))


def run_settings(algorithm: Algorithm, settings: Experiment) -> None:
    """The same, of settings that are objects already."""
    with together(settings), claim(settings) if first() else follow(settings) as workdir:
        if not told(finished(workdir, settings.run.steps)):
            with open_run(algorithm, algorithm.build(settings), workdir) as run:
                finish(run, train(run))
        if first():
            print(report(workdir))
