"""The tiny SFT run as a config file: --config tests/experiments/tiny_sft_config.py:MODEL,DATA --config.workdir=...

``scratch,DATA`` pretrains instead.  LQLM_TEST_KILL names the moment at which the process kills itself.
"""

import pathlib

from experiments.configdict import as_config
from tests.experiments import killer  # noqa: F401  (importing it arms it)
from tests.experiments.tiny_model import tiny_scratch, tiny_sft


def get_config(places):
    model, data = places.split(",")
    nowhere = pathlib.Path("nowhere")
    if model == "scratch":
        return as_config(tiny_scratch(data, nowhere))
    return as_config(tiny_sft(pathlib.Path(model), pathlib.Path(data), nowhere))
