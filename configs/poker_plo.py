"""Pot-limit Omaha from self-play logs of bots: the pipeline of configs/poker_small.py with four cards.

Command:   python -m experiments.poker pipeline --config configs/poker_plo.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   32 of processor time; by the clock it was not timed alone.
Expected:  one seed, 7,731 held-out decisions: SFT .818 and macro F1 .630 (trees with cards and equity .873 and .762),
           GRPO .819 and .631; 10,000 hands a line, mbb a hand: SFT -935 +- 267 against a random player, +217 +- 35
           against a caller; GRPO +132 +- 139 and +0 +- 14 more.
"""

from configs import poker_small


def get_config():
    """The settings; each can be overridden on the command line."""
    config = poker_small.get_config()
    config.workdir = "runs/poker_plo"
    config.logs.game = "omaha"
    config.stages = ("logs", "hands", "selected", "prompts", "records", "sft", "grpo", "evaluate")
    return config
