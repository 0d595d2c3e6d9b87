"""Positions of tokens, and which keys a query may see."""

import jax
import jax.numpy as jnp

from lqlm.models.config import ModelConfig
from lqlm.types import Array


def positions_of(mask_BT: Array) -> Array:
    """Position of each token counted from the row's first real one; padding gets 0."""
    return jnp.maximum(jnp.cumsum(mask_BT, axis=-1, dtype=jnp.int32) - 1, 0)


def segment_positions(segments_BT: Array) -> Array:
    """Position of each token counted from the first of its segment (a run of equal numbers); padding gets 0.

    >>> print(segment_positions(jnp.array([[1, 1, 2, 2, 2, 0]])))
    [[0 1 0 1 2 0]]
    """
    place = jnp.broadcast_to(jnp.arange(segments_BT.shape[-1], dtype=jnp.int32), segments_BT.shape)
    before = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jax.lax.cummax(jnp.where(segments_BT != before, place, 0), axis=1)
    return jnp.where(segments_BT == 0, 0, place - starts)


def visible(q_pos: Array, k_pos: Array, cfg: ModelConfig) -> Array:
    """Causality, and the sliding window where the config has one: true where a query may see a key."""
    ahead = q_pos - k_pos
    seen = ahead >= 0
    return seen if cfg.sliding_window is None else seen & (ahead < cfg.sliding_window)


def rows_seen(pos_BT: Array, mask_BT: Array, segments_BT: Array | None, cfg: ModelConfig) -> Array:
    """``[B, T, T]``: what each token of a row sees of the same row.

    Args:
        pos_BT: positions, counted in each segment.
        mask_BT: true at real tokens.
        segments_BT: None, or numbers of packed examples, each of which sees itself only; -1 at virtual tokens, which
            all see.
        cfg: the model's shape.
    """
    seen = visible(pos_BT[:, :, None], pos_BT[:, None, :], cfg) & mask_BT[:, None, :]
    if segments_BT is None:
        return seen
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    return seen & (same | (segments_BT == -1)[:, None, :])
