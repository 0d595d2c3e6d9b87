"""Supervised fine-tuning as an experiment: ``python -m experiments.sft``."""
