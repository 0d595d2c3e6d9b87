"""lqlm: QLoRA and RL fine-tuning of language models as pure JAX functions."""

__version__ = "0.1.0"
