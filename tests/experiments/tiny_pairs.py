"""The smallest runs on pairs, and the same as config files.

--config tests/experiments/tiny_pairs.py:COMMAND,MODEL,DATA --config.workdir=...
"""

import json
import pathlib
from typing import Any

from experiments.configdict import as_config
from experiments.dpo.settings import DPOExperiment
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.reward_model.settings import RewardModelExperiment
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.dpo import DPOConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.pairs import PairConfig
from tests.experiments import killer  # noqa: F401  (importing it arms it)


def save_pairs(file: pathlib.Path, count: int = 30) -> pathlib.Path:
    """Prompts of varying lengths; the chosen completion is of digits, the rejected one of letters."""
    lines = []
    for i in range(count):
        good, bad = str(7 * i % 100), "xyz"[: 1 + i % 3]
        lines.append(json.dumps({"prompt": f"{i}" + "+" * (i % 3), "chosen": good, "rejected": bad}))
    file.write_text("\n".join(lines) + "\n")
    return file


def _sections(model: pathlib.Path, data: pathlib.Path | str, workdir: pathlib.Path, run: dict[str, Any]) -> Any:
    small = {"steps": 4, "pairs": 4, "micro_batches": 2, "remat": "full", "logprob_chunk": 16}
    often = {"eval_every": 2, "eval_batch": 4, "checkpoint_every": 2, "samples": 2}
    return {
        "workdir": str(workdir),
        "model": ModelSettings(source=str(model)),
        "data": PairData(source=str(data), heldout=6),
        "text": PairConfig(max_prompt=40, max_completion=16),
        "adapter": LoraConfig(rank=4, alpha=8.0, dropout=0.1),
        "optim": OptimConfig(learning_rate=5e-3),
        "run": PairRunSettings(**(small | often | run)),
    }


def tiny_reward_model(model: Any, data: Any, workdir: Any, **run: object) -> RewardModelExperiment:
    """Micro-batches, dropout, centring, and an evaluation that ends in a batch that is not full."""
    return RewardModelExperiment(**_sections(model, data, workdir, run), reward=RewardModelConfig(center=0.01))


def tiny_dpo(model: Any, data: Any, workdir: Any, **run: object) -> DPOExperiment:
    """The same, with the likelihood of the chosen completion beside the loss."""
    return DPOExperiment(**_sections(model, data, workdir, run), dpo=DPOConfig(beta=0.5, sft_weight=0.1))


def get_config(places):
    name, model, data = places.split(",")
    make = {"reward_model": tiny_reward_model, "dpo": tiny_dpo}[name]
    return as_config(make(pathlib.Path(model), data, pathlib.Path("nowhere")))
