"""From token lists to padded arrays of a few fixed shapes, so that no prompt length compiles anything anew."""

from collections.abc import Sequence

import numpy as np

from lqlm.errors import UserError


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``length`` tokens.

    Raises:
        UserError: when the largest bucket is too short.

    >>> bucket_for(17, (16, 32))
    32
    """
    for size in sorted(buckets):
        if length <= size:
            return size
    raise UserError(
        f"a prompt of {length} tokens is longer than the largest bucket of {max(buckets)}; add a larger one"
    )


def round_up(length: int, multiple: int) -> int:
    """The next multiple.

    >>> round_up(17, 16)
    32
    """
    return -(-length // multiple) * multiple


def pad_prompts(prompts: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded tokens int32 ``[B, P]`` and their mask.

    Raises:
        UserError: for an empty prompt or one longer than ``length``.
    """
    tokens = np.full((len(prompts), length), pad_id, np.int32)
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= length:
            raise UserError(f"prompt {row} has {len(prompt)} tokens; it must have 1 to {length}")
        tokens[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = True
    return tokens, mask


def check_context(prompt_tokens: int, new_tokens: int, max_positions: int, where: str) -> None:
    """Refuse a prompt that leaves no room for its completion.

    Raises:
        UserError: naming ``where`` the prompt comes from.
    """
    if prompt_tokens + new_tokens > max_positions:
        raise UserError(
            f"{where}: {prompt_tokens} prompt tokens + {new_tokens} new tokens exceed the model's context of "
            f"{max_positions}; shorten the prompt or lower sampling.max_new_tokens"
        )
