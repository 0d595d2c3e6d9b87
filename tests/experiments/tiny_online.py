"""The smallest run of online DPO, and its config file: --config tests/experiments/tiny_online.py:MODEL."""

import pathlib

from experiments.configdict import as_config
from experiments.online_dpo.settings import OnlineDPOExperiment, RunSettings
from lqlm.algorithms.dpo_config import DPOConfig
from tests.experiments.tiny_ppo import LOOP, OFTEN, shared


def tiny_online(model: pathlib.Path, workdir: pathlib.Path, **run: object) -> OnlineDPOExperiment:
    """Two pairs of each group of four, micro-batches, the likelihood of the chosen sample beside the loss."""
    sections = {name: part for name, part in shared(model, workdir).items() if name != "value"}
    settings = RunSettings(**(LOOP | OFTEN | {"group": 4, "pairs": 2} | run))  # type: ignore[arg-type]
    return OnlineDPOExperiment(**sections, dpo=DPOConfig(beta=0.5, sft_weight=0.1), run=settings)


def get_config(model):
    return as_config(tiny_online(pathlib.Path(model), pathlib.Path("nowhere")))
