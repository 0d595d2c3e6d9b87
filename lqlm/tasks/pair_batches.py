"""Pairs and scored texts as padded arrays, and a split into training and held-out ones that never changes."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from lqlm.errors import UserError
from lqlm.generation.rollout import pad_prompts
from lqlm.tasks.pairs import Pair
from lqlm.tasks.scored import Scored

Row = TypeVar("Row", Pair, Scored)


def split_pairs(pairs: Sequence[Row], heldout: int) -> tuple[list[Row], list[Row]]:
    """Training and held-out pairs, or scored texts; no prompt is on both sides.

    A hash of the prompt decides: the same pairs are held out on every machine and by every method, whatever the seed.
    Pairs that share a prompt with a held-out one and are not held out themselves are left out.

    Args:
        pairs: more than ``heldout``.
        heldout: how many are held out.

    Raises:
        UserError: when no pair is left for training.
    """
    order = sorted(range(len(pairs)), key=lambda i: (_digest(pairs[i]), i))
    held = set(order[:heldout])
    prompts = {tuple(pairs[i].prompt) for i in held}
    train = [pair for i, pair in enumerate(pairs) if i not in held and tuple(pair.prompt) not in prompts]
    if not train or len(held) < heldout:
        raise UserError(
            f"data: {heldout} pairs to hold out of {len(pairs)}; at least one, of another prompt, must be left for "
            "training"
        )
    return train, [pairs[i] for i in sorted(held)]


def without_prompts_of(pairs: Sequence[Row], heldout: Sequence[Row]) -> list[Row]:
    """Those of the pairs whose prompt no held-out pair has.

    Raises:
        UserError: when none is left, or nothing is held out.
    """
    prompts = {tuple(pair.prompt) for pair in heldout}
    train = [pair for pair in pairs if tuple(pair.prompt) not in prompts]
    if not train or not heldout:
        raise UserError(
            f"data: {len(heldout)} pairs are held out, and {len(train)} of {len(pairs)} have another prompt; "
            "there must be some of both"
        )
    return train


def _digest(pair: Pair | Scored) -> bytes:
    return hashlib.blake2b(np.asarray(pair.prompt, np.int32).tobytes(), digest_size=16).digest()


class PairRows(NamedTuple):
    """B pairs as arrays; of the group axis (G = 2), entry 0 is the chosen completion.  Of scored texts G is 1.

    Attributes:
        prompts_BP, prompt_mask_BP: int32 and bool, left-padded.
        completions_BGC, completion_mask_BGC: int32 and bool, right-padded; a row that fills up has no token in them.
        numbers_B: float32, the margins, or the scores.
    """

    prompts_BP: np.ndarray
    prompt_mask_BP: np.ndarray
    completions_BGC: np.ndarray
    completion_mask_BGC: np.ndarray
    numbers_B: np.ndarray


def pad_pairs(pairs: Sequence[Row], prompt: int, completion: int, pad_id: int, *, rows: int = 0) -> PairRows:
    """Pairs, or scored texts, as arrays of fixed lengths.

    Args:
        pairs: of any number, at least one.
        prompt: P.
        completion: C.
        pad_id: written at padding.
        rows: B, where it is more than there are pairs: the others have a prompt and no completions.
    """
    filled = [*pairs, *[pairs[0]] * (rows - len(pairs))]
    prompts, prompt_mask = pad_prompts([pair.prompt for pair in filled], prompt, pad_id)
    tokens = np.full((len(filled), len(pairs[0].sides), completion), pad_id, np.int32)
    mask = np.zeros(tokens.shape, np.bool_)
    for i, pair in enumerate(pairs):
        for side, row in enumerate(pair.sides):
            tokens[i, side, : len(row)], mask[i, side, : len(row)] = row, True
    numbers = np.array([pair.number for pair in filled], np.float32)
    return PairRows(prompts, prompt_mask, tokens, mask, numbers)
