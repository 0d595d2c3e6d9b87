"""PPO as an experiment: ``python -m experiments.ppo``; and what every actor-critic has in common."""
