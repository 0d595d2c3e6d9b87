"""Completions for people: a chat, or a file of prompts."""
