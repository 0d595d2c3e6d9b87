"""Reference answers as completions, for the supervised mix-in."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.grpo.settings import GRPOExperiment
from experiments.rollouts.prompts import Prompts
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.load import LoadedModel
from lqlm.tasks.base import Item, Task


def demonstrations(
    settings: GRPOExperiment, task: Task, model: LoadedModel, prompts: Prompts
) -> Mapping[str, list[int]]:
    """The reference answer of each training item as tokens, its end with it; empty where there is no mix-in.

    Raises:
        UserError: when one is longer than what is sampled.
    """
    if not settings.demonstrations.used:
        return {}
    found, most = {}, settings.sampling.max_new_tokens
    for item in task.train:
        found[item.id] = _completion(task, item, model, prompts.tokens[item.id])
        if len(found[item.id]) > most:
            raise UserError(
                f"demonstrations: the answer of item {item.id} has {len(found[item.id])} tokens; "
                f"raise sampling.max_new_tokens from {most}"
            )
    return found


def _completion(task: Task, item: Item, model: LoadedModel, prompt: Sequence[int]) -> list[int]:
    """The answer as the chat template ends it; where the template writes earlier turns anew, the answer and an end."""
    tokenizer, eos_ids = model.tokenizer, model.tokenizer.eos_ids
    whole = tokenizer.chat([*task.messages(item), {"role": "assistant", "content": item.answer}], False)
    rest = whole[len(prompt) :] if whole[: len(prompt)] == list(prompt) else tokenizer.encode_more(item.answer)
    end = next((place for place, token in enumerate(rest) if token in eos_ids), len(rest))
    return [*rest[:end], rest[end] if end < len(rest) else eos_ids[0]]


def with_demonstrations(
    completions: Completions, items: Sequence[Item], shown: Mapping[str, list[int]], pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask ``[B, G + 1, C]``: the samples of each group, and its demonstration last."""
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    more = np.full((len(items), 1, tokens.shape[-1]), pad_id, tokens.dtype)
    real = np.zeros(more.shape, bool)
    for row, item in enumerate(items):
        answer = shown[item.id]
        more[row, 0, : len(answer)], real[row, 0, : len(answer)] = answer, True
    return np.concatenate([tokens, more], axis=1), np.concatenate([mask, real], axis=1)
