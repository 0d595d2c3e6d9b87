"""The texts that calibration and perplexity read, as windows of tokens."""

import gzip
import pathlib
import pydoc_data.topics
import zlib

import numpy as np

from experiments.quantize.settings import TextSettings
from lqlm.errors import UserError
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.perplexity import windows

HELP = "Python's help topics"


def help_topics() -> str:
    """What ``help()`` knows of Python, English prose of CPython's documentation (PSF licence), in every CPython."""
    topics = pydoc_data.topics.topics
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str) -> str:
    """A file, unpacked where its name ends in ``.gz``.

    Raises:
        UserError: if it cannot be read as UTF-8 text.
    """
    try:
        raw = pathlib.Path(path).expanduser().read_bytes()
        return (gzip.decompress(raw) if path.endswith(".gz") else raw).decode()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a .txt or .txt.gz file in UTF-8") from error


def calibration_windows(settings: TextSettings, tokenizer: Tokenizer) -> np.ndarray:
    """int32 [W, T] of the calibration text."""
    count, where = settings.calibration_windows, f"text.calibration ({settings.calibration or HELP})"
    tokens, half = _tokens(settings.calibration, tokenizer)
    return windows(tokens[:half], settings.length, count, where)


def evaluation_windows(settings: TextSettings, tokenizer: Tokenizer) -> np.ndarray | None:
    """int32 [W, T] of the text for perplexity, or None if it is not wanted."""
    if not settings.windows:
        return None
    tokens, half = _tokens(settings.evaluation, tokenizer)
    where = f"text.evaluation ({settings.evaluation or HELP})"
    return windows(tokens[half or 0 :], settings.length, settings.windows, where)


def _tokens(path: str, tokenizer: Tokenizer) -> tuple[list[int], int | None]:
    """The tokens of a text, and where the second half of the help topics begins."""
    tokens = tokenizer.encode_more(read_text(path) if path else help_topics())
    return tokens, None if path else len(tokens) // 2
