"""A chat with SmolLM2-135M-Instruct in NF4, or completions of a file of prompts.

Command:   python -m experiments.generate
           python -m experiments.generate --config.input=prompts.jsonl --config.output=completions.jsonl
Hardware:  2 CPU cores, 3 GiB of memory.
Minutes:   1 until the first answer, most of it compilation; seconds from the second run on.
Expected:  a table of speeds after the last answer.
"""

from experiments.configdict import as_config
from experiments.generate.settings import GenerateSettings


def get_config():
    """The settings; each can be overridden on the command line."""
    return as_config(GenerateSettings())
