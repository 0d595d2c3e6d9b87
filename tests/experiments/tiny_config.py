"""The tiny run as a config file: --config tests/experiments/tiny_config.py:MODEL_DIRECTORY --config.workdir=..."""

import pathlib

from experiments.configdict import as_config
from tests.experiments.tiny_model import tiny


def get_config(model):
    return as_config(tiny(pathlib.Path(model), pathlib.Path("nowhere")))
