"""Log-probabilities that a model gives to completions: what the trainer computes and the sampler must agree with."""

import functools
from typing import Any

import jax

from lqlm.layout import shardwise
from lqlm.logprobs import (
    TokenStatistics,
    chunked_scores,
    chunked_token_logprobs,
    token_logprobs,
    token_statistics,
)
from lqlm.models.config import ModelConfig
from lqlm.models.groups import forward_groups
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, logits
from lqlm.types import Array, Key, PyTree


def completion_logprobs(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    with_entropy: bool = False,
    entropy_gradient: bool = False,
    dropout_key: Key | None = None,
    remat: Remat = "none",
) -> tuple[Array, Array | None]:
    """``log p(completion token | prompt, earlier tokens)`` of every token, each prompt computed once for its group.

    Args:
        base: weights.
        adapters: or None for the reference policy.
        prompts_BP: left-padded.
        prompt_mask_BP: true at real tokens.
        completions_BGC: right-padded.
        completion_mask_BGC: true at real tokens.
        cfg: the model's shape.
        temperature: divides the logits, as the sampler's does; 0 (greedy) scores at temperature 1.
        chunk: tokens whose logits are held at once.
        with_entropy: also return the entropy of each token's distribution.
        entropy_gradient: whether gradients flow through it, as an entropy bonus needs.
        dropout_key: switches the adapters' dropout on.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.

    Returns:
        Float32 ``[B, G, C]`` log-probabilities (at padding: finite, and without meaning) and entropies or None.
    """
    score = functools.partial(
        chunked_token_logprobs,
        temperature=temperature or 1.0,
        chunk=chunk,
        with_entropy=with_entropy,
        entropy_gradient=entropy_gradient,
    )
    arrays = prompts_BP, prompt_mask_BP, completions_BGC, completion_mask_BGC
    logp, entropy = _scores(score, base, adapters, *arrays, cfg, dropout_key, remat)
    return logp, entropy


def completion_statistics(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    chunk: int = 1024,
    dropout_key: Key | None = None,
    remat: Remat = "none",
) -> tuple[Array, TokenStatistics]:
    """Log-probabilities as :func:`completion_logprobs`, and what else the logits say; arguments as there.

    Returns:
        Float32 ``[B, G, C]`` log-probabilities and :class:`lqlm.logprobs.TokenStatistics` of ``[B, G, C]``; at padding
        finite, and without meaning.
    """

    def both(logits: Array, targets: Array) -> tuple[Array, TokenStatistics]:
        return token_logprobs(logits, targets), token_statistics(logits, targets)

    score = functools.partial(chunked_scores, score=both, chunk=chunk)
    arrays = prompts_BP, prompt_mask_BP, completions_BGC, completion_mask_BGC
    logp, seen = _scores(score, base, adapters, *arrays, cfg, dropout_key, remat)
    return logp, seen


def _scores(
    score: Any,
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    dropout_key: Key | None,
    remat: Remat,
) -> PyTree:
    """``score(hidden, head, targets)`` of every completion token, each array ``[B, G, C]``."""
    base, adapters = bind(base, adapters)
    arrays = prompts_BP, prompt_mask_BP, completions_BGC, completion_mask_BGC
    hidden = forward_groups(base, adapters, *arrays, cfg, dropout_key=dropout_key, remat=remat)
    scores = shardwise(
        lambda hidden, targets: score(hidden, lambda h: logits(base, h), targets),
        hidden.reshape(-1, hidden.shape[-1]),
        completions_BGC.reshape(-1),
        rows=len(completions_BGC),
    )
    return jax.tree.map(lambda x: x.reshape(completions_BGC.shape), scores)
