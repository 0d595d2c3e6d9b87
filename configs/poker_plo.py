"""Pot-limit Omaha from self-play logs of bots: the pipeline of configs/poker_small.py with four cards.

Command:   python -m experiments.poker pipeline --config configs/poker_plo.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   not measured yet.
Expected:  not measured yet.
"""

from configs import poker_small


def get_config():
    """The settings; each can be overridden on the command line."""
    config = poker_small.get_config()
    config.workdir = "runs/poker_plo"
    config.logs.game = "omaha"
    config.stages = ("logs", "hands", "selected", "prompts", "records", "sft", "grpo", "evaluate")
    return config
