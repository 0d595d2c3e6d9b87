"""QLoRA of a Llama-65B: rank 64 on all linear layers in bfloat16, one row of 512 tokens, on a GPU of 48 GiB.

Command:   python -m experiments.quantize --plan
Hardware:  1 CPU core, 1 GiB of memory.
Minutes:   1.
Expected:  37 GiB on the device; it fits.
Others:    --config configs/plan.py:KIND for another adapter (ia3, prompt, prefix, full), --config.model=7B
"""

from experiments.configdict import as_config, kinds
from experiments.plan.settings import PlanSettings
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.errors import UserError


def get_config(kind="lora"):
    """The settings; each can be overridden on the command line."""
    if kind not in kinds(AdapterConfig):
        raise UserError(f"adapter kind {kind!r} is unknown; choose {', '.join(kinds(AdapterConfig))}")
    cls = kinds(AdapterConfig)[kind]
    adapter = LoraConfig(rank=64, dtype="bfloat16") if cls is LoraConfig else cls()
    return as_config(PlanSettings(adapter=adapter, quantize=cls is not FullConfig))
