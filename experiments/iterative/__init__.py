"""Iterative GRPO with a reward model that is trained again: ``python -m experiments.iterative``."""
