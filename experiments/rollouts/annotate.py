"""What the page of a run shows of single tokens, kept for the few completions that are written down."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lqlm.generation.decode import Completions
from lqlm.generation.stop import Detokenizer
from lqlm.io.tokenizer import Tokenizer


def with_tokens(
    rows: Sequence[dict[str, Any]],
    completions: Completions,
    tokenizer: Tokenizer,
    *,
    ref_logp_BGC: Any = None,
    advantages: Any = None,
) -> list[dict[str, Any]]:
    """Rows of ``samples.jsonl`` with ``tokens``, ``logp``, and where they are known ``ref_logp`` and ``advantage``.

    Args:
        rows: of the first completions, in the order of [B, G].
        completions: that were sampled.
        tokenizer: of the model.
        ref_logp_BGC: of the reference, at the sampling temperature.
        advantages: [B, G], or [B, G, C] where tokens have their own.
    """
    mask, tokens, logp = (np.asarray(x) for x in (completions.mask_BGC, completions.tokens_BGC, completions.logp_BGC))
    found = []
    for row, at in zip(rows, np.ndindex(*mask.shape[:2])):
        real = mask[at]
        extra: dict[str, Any] = {
            "tokens": pieces(tokens[at][real].tolist(), tokenizer),
            "logp": rounded(logp[at][real]),
        }
        if ref_logp_BGC is not None:
            extra["ref_logp"] = rounded(np.asarray(ref_logp_BGC)[at][real])
        if advantages is not None:
            own = np.asarray(advantages)[at]
            extra["advantage"] = rounded(own[real]) if own.ndim else rounded(own[None])[0]
        found.append({**row, **extra})
    return found


def pieces(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text that each token adds; a token that ends inside a character adds nothing, the one that ends it all of it.

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
