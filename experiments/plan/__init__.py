"""Does a training fit a GPU?  ``python -m experiments.quantize --plan``."""
