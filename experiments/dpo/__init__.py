"""DPO as an experiment: ``python -m experiments.dpo``."""
