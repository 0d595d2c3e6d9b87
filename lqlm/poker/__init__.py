"""Poker: hand logs as typed records, replay, selection, prompts, hand strength and equity."""
