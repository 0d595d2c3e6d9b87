"""The four stages of R1 (DeepSeek-AI, arXiv:2501.12948) as one experiment: ``python -m experiments.r1``."""
