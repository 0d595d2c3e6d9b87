"""Three experts, two rounds, against single samples and a majority vote, on one-digit sums with SmolLM2-135M-Instruct.

Command:   python -m experiments.panel
Hardware:  2 CPU cores, 3 GiB of memory.
Minutes:   23 for 48 problems (--config.problems=48) on one core, beside other work.
Expected:  of these 48, one seed: one sample 20.8%, a majority of 13 samples 33.3%, the panel 8.3% at as many tokens.
           A model of 135 million parameters repeats what experts are told instead of solving a step: no help.
"""

from experiments.configdict import as_config
from experiments.panel.settings import PanelExperiment


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(PanelExperiment())
