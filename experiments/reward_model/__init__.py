"""A reward model as an experiment: ``python -m experiments.reward_model``."""
