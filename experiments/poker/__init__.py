"""Poker from raw logs to an agent, a command for each stage."""
