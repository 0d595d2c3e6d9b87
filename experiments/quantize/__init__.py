"""Quantize a model, within a budget of bits or in one format, and turn it back."""
