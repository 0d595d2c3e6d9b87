"""What a model says about chosen tokens of its input: the scores of supervised fine-tuning and of perplexity."""

import jax
import jax.numpy as jnp

from lqlm.layout import shardwise
from lqlm.logprobs import TokenScores, masked_token_scores
from lqlm.models.config import ModelConfig
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, forward, logits
from lqlm.types import Array, Key, PyTree


def target_scores(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BT: Array,
    segments_BT: Array,
    targets_BT: Array,
    cfg: ModelConfig,
    *,
    chunk: int = 1024,
    dropout_key: Key | None = None,
    remat: Remat = "none",
) -> TokenScores:
    """Scores of each target token given the tokens before it in its segment.

    Args:
        base: weights.
        adapters: or None for the base itself.
        tokens_BT: int32.
        segments_BT: int32, 0 at padding, 1 and up for the texts of a row.
        targets_BT: true at tokens that are scored; never the first of a segment.
        cfg: the model's shape.
        chunk: tokens whose logits are held at once.
        dropout_key: switches the adapters' dropout on.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.

    Returns:
        `TokenScores` of [B, T], zero (false) where there is no target.
    """
    base, adapters = bind(base, adapters)
    hidden = forward(
        base,
        adapters,
        tokens_BT,
        segments_BT > 0,
        cfg,
        segments_BT=segments_BT,
        dropout_key=dropout_key,
        remat=remat,
    )[:, :-1]
    scores = shardwise(
        lambda hidden, *which: masked_token_scores(hidden, lambda h: logits(base, h), *which, chunk=chunk),
        hidden.reshape(-1, hidden.shape[-1]),
        tokens_BT[:, 1:].reshape(-1),
        targets_BT[:, 1:].reshape(-1),
        rows=len(tokens_BT),
    )
    return jax.tree.map(lambda x: jnp.pad(x.reshape(hidden.shape[:2]), ((0, 0), (1, 0))), scores)
