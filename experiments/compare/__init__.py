"""Algorithms side by side at equal rollouts: ``python -m experiments.compare``."""
