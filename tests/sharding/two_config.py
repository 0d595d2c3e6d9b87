"""The tiny SFT run for several processes: --config tests/sharding/two_config.py:MODEL,DATA

LQLM_TEST_KILL=N kills the process, as ``kill -9`` would, when it asks for the rows of step N.
"""

import os
import pathlib
import signal

from experiments.configdict import as_config
from experiments.sft.data import MemoryFeed
from tests.experiments.tiny_model import tiny_sft

KILL = os.environ.get("LQLM_TEST_KILL")
_real_at = MemoryFeed.at


def _killing_at(feed, step, position):
    if step == int(KILL):
        os.kill(os.getpid(), signal.SIGKILL)
    return _real_at(feed, step, position)


if KILL:
    MemoryFeed.at = _killing_at


def get_config(places):
    model, data = places.split(",")
    few = {"micro_batches": 1, "checkpoint_every": 1, "eval_every": 0, "eval_batch": 4, "generate": 0, "steps": 3}
    return as_config(tiny_sft(pathlib.Path(model), pathlib.Path(data), pathlib.Path("nowhere"), **few))
