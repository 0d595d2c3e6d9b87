"""Tiny runs on own samples for several processes: --config tests/sharding/two_rollouts_config.py:NAME,MODEL"""

import dataclasses
import pathlib

from experiments.configdict import as_config
from lqlm.optim.chains import OptimConfig
from tests.experiments.tiny_model import tiny
from tests.experiments.tiny_online import tiny_online
from tests.experiments.tiny_ppo import tiny_ppo

RUNS = {"grpo": tiny, "ppo": tiny_ppo, "online_dpo": tiny_online}


def get_config(what):
    name, model = what.split(",")
    few = {"steps": 2, "micro_batches": 1, "eval_every": 0, "checkpoint_every": 1, "samples": 8}
    made = RUNS[name](pathlib.Path(model), pathlib.Path("nowhere"), **few)
    # At Adam's usual eps the sign of a gradient near 0 would decide, which differs by the order of sums.
    return as_config(dataclasses.replace(made, optim=OptimConfig(learning_rate=1e-3, eps=1e-3)))
