"""DPO on the policy's own samples: ``python -m experiments.online_dpo``."""
