"""Three experts, two rounds, against single samples and a majority vote, on one-digit sums with SmolLM2-135M-Instruct.

Command:   python -m experiments.panel
Hardware:  2 CPU cores, 3 GiB of memory.
Minutes:   not measured yet.
Expected:  not measured yet.
"""

from experiments.configdict import as_config
from experiments.panel.settings import PanelExperiment


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(PanelExperiment())
