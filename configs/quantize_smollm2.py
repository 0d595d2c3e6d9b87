"""SmolLM2-135M-Instruct in as many bytes as uniform NF4 with double quantization takes, its bits where they matter.

Command:   python -m experiments.quantize --config configs/quantize_smollm2.py
Hardware:  2 CPU cores, 3 GiB of memory.
Minutes:   4 (3.5 of processor time).
Expected:  perplexity on the second half of Python's help topics: dense 10.77, NF4 13.98, this 13.14.
"""

from experiments.configdict import as_config
from experiments.quantize.settings import BudgetSettings, QuantizeExperiment


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(
        QuantizeExperiment(workdir="runs/quantize_smollm2", budget=BudgetSettings(bits=4.127, blocks=(32, 64, 192)))
    )
