"""The page of the default run.

Command:   python -m experiments.report --config.run=runs/grpo_smollm2_arithmetic
Hardware:  1 CPU core.
Minutes:   less than 1.
Expected:  the path of report.html, one file to open in a browser.
"""

from experiments.configdict import as_config
from experiments.report import ReportSettings


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(ReportSettings(run="runs/grpo_smollm2_arithmetic"))
