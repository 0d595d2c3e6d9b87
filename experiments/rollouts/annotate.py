"""What the page of a run shows of single tokens, kept for the few completions that are written down."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lqlm.generation.decode import Completions
from lqlm.generation.stop import Detokenizer
from lqlm.io.tokenizer import Tokenizer

Row = dict[str, Any]


def with_tokens(rows: Sequence[Row], completions: Completions, tokenizer: Tokenizer) -> list[Row]:
    """Rows of ``samples.jsonl`` with ``tokens``, the text that each adds, and ``logp``, one number for each.

    Args:
        rows: of the first completions, in the order of [B, G].
        completions: that were sampled.
        tokenizer: of the model.
    """
    mask, tokens = np.asarray(completions.mask_BGC), np.asarray(completions.tokens_BGC)
    places = zip(rows, np.ndindex(*mask.shape[:2]))
    found = [{**row, "tokens": pieces(tokens[at][mask[at]].tolist(), tokenizer)} for row, at in places]
    return with_values(found, completions, {"logp": completions.logp_BGC})


def with_values(rows: Sequence[Row], completions: Completions, values: Mapping[str, Any]) -> list[Row]:
    """Rows with one number for each token, or one for all, under each of these names.

    Args:
        rows: of the first completions, in the order of [B, G].
        completions: that were sampled.
        values: name -> [B, G], [B, G, C], or None, which is left out; groups and lengths may have more at their end.
    """
    mask = np.asarray(completions.mask_BGC)
    known = {name: np.asarray(value) for name, value in values.items() if value is not None}
    return [
        {**row, **{name: _numbers(value[at], mask[at]) for name, value in known.items()}}
        for row, at in zip(rows, np.ndindex(*mask.shape[:2]))
    ]


def _numbers(value: np.ndarray, real: np.ndarray) -> Any:
    return rounded(value[: len(real)][real]) if value.ndim else rounded(value[None])[0]


def pieces(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text that each token adds; a token that ends inside of a character adds nothing, the one that ends it all.

    Special tokens, such as the end, add nothing.
    """
    text = Detokenizer(tokenizer.decode)
    found = [text.push(token) for token in tokens]
    if found:
        found[-1] += text.flush()
    return found


def rounded(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, with the digits that a person reads; what is not finite is null."""
    return [round(value, 4) if np.isfinite(value) else None for value in values.astype(float).tolist()]
