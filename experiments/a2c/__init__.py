"""A2C as an experiment: ``python -m experiments.a2c``."""
