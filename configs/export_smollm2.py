"""SmolLM2-135M-Instruct in NF4, with an adapter or without, for other tools.

Command:   python -m experiments.export --config.adapter=runs/sft_smollm2_arithmetic/adapter --config.out=runs/merged
Hardware:  2 CPU cores, 3 GiB of memory.
Minutes:   less than 1.
Expected:  a directory that transformers loads, and how much of what the adapter changed rounding loses.
"""

from experiments.configdict import as_config
from experiments.export import ExportSettings


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(ExportSettings(out="runs/export_smollm2"))
