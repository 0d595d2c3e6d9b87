"""GRPO as an experiment: ``python -m experiments.grpo``."""
