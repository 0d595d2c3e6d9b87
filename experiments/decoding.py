"""Completions of prompts: the compiled function, and their texts."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.mesh import batched, compiled, keyed
from lqlm.generation.decode import Completions, generate
from lqlm.generation.engine import Engine
from lqlm.generation.refill import complete
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig
from lqlm.io.load import LoadedModel
from lqlm.io.tokenizer import Tokenizer
from lqlm.models.kv_cache import CacheFormat
from lqlm.sharding import replicated
from lqlm.types import PyTree

CHUNK = 32
"""Decode steps of one call of the engine where nobody reads along: it comes back earlier as a slot falls free."""


def make_sampler(
    model: LoadedModel,
    sampling: SamplingConfig,
    group: int,
    mesh: Mesh | None = None,
    cache: CacheFormat = "model",
    slots: int = 0,
) -> Callable[..., Completions]:
    """``(base, adapters, prompts_BP, prompt_mask_BP, key) -> Completions``, compiled.

    On a mesh the prompts are split over its data axes, and the completions come back whole to every process.

    Args:
        model: its shape and tokenizer.
        sampling: every option but ``stop``.
        group: G, completions of each prompt.
        mesh: or None for one device.
        cache: how keys and values are stored.
        slots: prompts under way at once, one device only (:mod:`lqlm.generation.refill`); 0: all of them.
    """
    eos_ids, pad_id = model.tokenizer.eos_ids, model.tokenizer.pad_id
    if slots:
        return _refilled(model, sampling, EngineConfig(slots=slots, group=group, cache=cache, chunk=CHUNK))

    def sample(base: PyTree, adapters: PyTree, tokens: jax.Array, mask: jax.Array, key: jax.Array) -> Completions:
        arrays = (base, adapters, tokens, mask, key)
        return generate(*arrays, model.config, sampling, group=group, eos_ids=eos_ids, pad_id=pad_id, cache=cache)

    run = compiled(sample, mesh, replicated)

    def split(base: PyTree, adapters: PyTree, tokens: np.ndarray, mask: np.ndarray, key: jax.Array) -> Completions:
        return run(base, adapters, *batched(mesh, (tokens, mask)), keyed(mesh, key))

    return run if mesh is None else split


def _refilled(model: LoadedModel, sampling: SamplingConfig, sizes: EngineConfig) -> Callable[..., Completions]:
    """The same through slots that are refilled; a program for each prompt length."""
    ends: dict[str, Any] = {"eos_ids": model.tokenizer.eos_ids, "pad_id": model.tokenizer.pad_id}

    def sample(base: PyTree, adapters: PyTree, tokens: np.ndarray, mask: np.ndarray, key: jax.Array) -> Completions:
        fitted = dataclasses.replace(sizes, prompt_buckets=(tokens.shape[1],))
        return complete(Engine(base, adapters, model.config, sampling, fitted, **ends), tokens, mask, key)

    return sample


def texts_of(tokenizer: Tokenizer, completions: Completions) -> list[list[str]]:
    """Decoded completions, ``[B][G]``, without special tokens and without what follows the end."""
    tokens, mask = np.asarray(completions.tokens_BGC), np.asarray(completions.mask_BGC)
    return [[tokenizer.decode(t[m].tolist()) for t, m in zip(*rows)] for rows in zip(tokens, mask)]


def first_texts(
    decode: Callable[..., Completions],
    policy: tuple[PyTree, PyTree | None],
    rows: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    size: int,
    length: int,
) -> Iterator[str]:
    """The first completion of every prompt, so many at once, all batches of one shape.

    Args:
        decode: as from `make_sampler`.
        policy: base and adapters to decode with.
        rows: prompts as tokens, of any number.
        tokenizer: of the model.
        size: B, prompts decoded at once.
        length: P, to which prompts are padded.
    """
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        # The last batch is filled up with a copy of its first prompt, so that it has the shape of the others.
        tokens, mask = pad_prompts([*part, *[part[0]] * (size - len(part))], length, tokenizer.pad_id)
        completions = decode(*policy, tokens, mask, jax.random.key(0))
        yield from (texts[0] for texts in texts_of(tokenizer, completions)[: len(part)])
